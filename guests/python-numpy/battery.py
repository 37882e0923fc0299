"""A battery for the finished guest: the same text natively and inside, or something is wrong.

Run it by `python3 battery.py` beside a native NumPy and by `weir run` under a policy that grants numpy, and give
both texts to compare.py. Long doubles (another format here) and sums of narrow integers (kept in 32 bits here, where
a long is that wide) differ by design and are left out.
"""

import numpy as np

R = np.random.default_rng(7)
X, Y = R.standard_normal((40, 30)), R.standard_normal((40, 30))
V = R.random(1000)
I = R.integers(-50, 50, (25, 4), dtype=np.int64)
C = X[:20, :20] + 1j * Y[:20, :20]
NATURAL = {("prod", "uint8"), ("prod", "int16")}  # overflow where a long has 32 bits


def digest(value):
    """A short text of numbers that any difference worth naming would change."""
    if isinstance(value, (tuple, list)):
        return " | ".join(digest(part) for part in value)
    array = np.asarray(value)
    if array.dtype.kind in "OSUMmVT":
        return f"{array.shape} {array.astype('U').tolist()}"[:160]
    whole = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
    finite = whole[np.isfinite(whole)]
    sums = [finite.sum(), np.abs(finite).sum(), finite.size]
    weights = np.cos(np.arange(finite.size))
    numbers = " ".join(f"{np.round(part, 8) + 0:.12g}" for part in (*sums, finite @ weights))
    return f"{array.shape} {array.dtype.kind} {numbers}"


def show(name, make):
    try:
        print(name, digest(make()))
    except Exception as error:
        print(name, type(error).__name__)


UNARY = "exp log1p sqrt sin cos tan arcsin arctan sinh tanh floor rint cbrt exp2 expm1 sign square reciprocal log2"
BINARY = "add subtract multiply divide power maximum fmin hypot arctan2 fmod remainder floor_divide copysign nextafter"
REDUCTIONS = "sum prod mean std var min max argmin argmax cumsum median ptp nansum any all count_nonzero diff sort"
DRAWS = "random normal standard_gamma:2 poisson:3 beta:2,3 binomial:9,.4 gamma:3 uniform integers:1000 permutation:50"


def narrowed(array, kind):
    """Nine times `array` as `kind`; whole numbers first, for a negative float as unsigned is no number at all."""
    return (array * 9).astype(np.int64).astype(kind) if kind in ("uint8", "int16") else (array * 9).astype(kind)


with np.errstate(all="ignore"):
    for kind in ("float64", "float32", "float16", "complex128"):
        for name in UNARY.split():
            show(f"{name} {kind}", lambda: getattr(np, name)(V.astype(kind)))
    for kind in ("float64", "float32", "int64", "uint8", "int16"):
        for name in BINARY.split():
            show(f"{name} {kind}", lambda: getattr(np, name)(narrowed(X, kind), narrowed(Y, kind)))
        for name in REDUCTIONS.split():
            for axis in (0, 1) if (name, kind) not in NATURAL else ():
                show(f"{name} {kind} {axis}", lambda: getattr(np, name)(narrowed(X, kind), axis=axis))
    for kind in ("float64", "float32", "complex128", "int64", "uint8", "float16", "bool"):
        a, b = narrowed(X, kind), narrowed(Y.T, kind)
        show(f"matmul {kind}", lambda: (a @ b, a.T @ b.T, a[::2] @ b[:, ::3], a[0] @ b, a @ b[:, 0], np.dot(a, b)))
for name in "det inv eigvals eigvalsh pinv norm matrix_rank slogdet cond".split():
    square = X[:20, :20] + X[:20, :20].T + 9 * np.eye(20)
    show(f"linalg.{name}", lambda: np.sort(getattr(np.linalg, name)(square), axis=None) if "eig" in name else
         tuple(np.atleast_1d(getattr(np.linalg, name)(square))))
show("solve", lambda: (np.linalg.solve(C, C[0]), np.linalg.lstsq(X, Y)[0]))
show("factors", lambda: (np.linalg.svd(X)[1], np.abs(np.linalg.qr(X)[1])))
show("cholesky", lambda: np.linalg.cholesky(X.T @ X))
for size in (8, 30, 97, 1000):
    show(f"fft {size}", lambda: (np.fft.fft(V, size), np.fft.rfft(V, size), np.fft.irfft(V, size), np.fft.fft2(C)))
for name in DRAWS.split():
    call, _, words = name.partition(":")
    values = [float(word) if "." in word else int(word) for word in words.split(",") if word]
    sized = {} if call == "permutation" else {"size": 99}
    for bits in (np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64):
        show(f"{call} {bits.__name__}", lambda: getattr(np.random.Generator(bits(3)), call)(*values, **sized))
show("legacy", lambda: (np.random.RandomState(5).randn(9), np.random.RandomState(5).randint(0, 99, 9)))
show("index", lambda: (X[X > 0], X[[1, 3], ::2], X[..., None, 3], np.take(V, [5, 9]), np.where(X > 0, X, -1), V[::-7]))
show("joined", lambda: (np.concatenate([X, Y]), np.stack([X, Y], 2), np.tile(I, 2)))
show("moved", lambda: (np.pad(I, 2), np.roll(I, 3), np.kron(I, I)))
show("einsum", lambda: (np.einsum("ij,ij->j", X, Y), np.einsum("ij,kj->ik", X, Y)))
show("products", lambda: (np.tensordot(X, Y, 2), np.outer(V, V), np.vdot(C, C), np.cross(X[:, :3], Y[:, :3])))
show("sets", lambda: (np.unique(I, return_counts=True)[1], np.isin(I, [3, 4]), np.union1d(I, I + 40), np.unique(V)))
show("statistics", lambda: (np.percentile(V, [5, 50]), np.histogram(V, 9)[0], np.cov(X.T), np.corrcoef(X)))
show("counts", lambda: np.bincount(I.ravel() + 50))
show("polynomials", lambda: (np.polyfit(V[:50], V[50:100], 3), np.roots([1, -6, 11, -6])))
show("chebyshev", lambda: np.polynomial.Chebyshev.fit(V[:50], V[50:100], 4).coef)
show("calculus", lambda: (np.interp(V, [0, 1], [3, 9]), np.gradient(V), np.trapezoid(V), np.convolve(V, V[:9])))
show("masked", lambda: np.ma.masked_less(V, 0.5).filled(0))
show("dates", lambda: np.arange("2024-02-27", "2024-03-02", dtype="M8[D]") + np.timedelta64(3, "h"))
show("text", lambda: (np.char.upper(["a", "bc"]), np.strings.find(["abc", "xbc"], "c")))
show("parsed", lambda: np.array(["1.5", "2e-300"]).astype(float))
show("strings", lambda: np.sort(np.array(["b", "a", "ü"], dtype=np.dtypes.StringDType())))
show("records", lambda: np.sort(np.array([(2, "b"), (1, "a")], dtype=[("n", "i8"), ("s", "U1")]), order="n")["s"])
show("bytes", lambda: (np.frombuffer(V.tobytes()), np.array(V.tolist()), I.astype("i1").view("u1")))
show("printed", lambda: [str(X[:2, :3]), repr(C[0, 0]), np.array2string(V[:4], precision=3), f"{V[0]:.3e}"])
WRONG = (("shapes", lambda: X @ X), ("singular", lambda: np.linalg.inv(np.zeros((2, 2)))), ("index", lambda: X[99]))
for name, make in WRONG:
    show(f"error {name}", make)
