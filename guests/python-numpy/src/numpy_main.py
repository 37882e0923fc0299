"""The guest's entry with NumPy: imports and tries it before the image is stored, then is `guests/python`.

Native modules are linked into the component and can be found only while it is made, so every module of NumPy is
imported here; a program's `import numpy` then finds it ready. The trial below stops the build when a sum is wrong.
"""

import library

library.install()

import importlib
import pkgutil

import numpy

# Tools for building, testing and calling foreign libraries: their other halves do not exist here.
LEFT_OUT = ("numpy.conftest", "numpy._configtool", "numpy._pyinstaller", "numpy.ctypeslib", "numpy.testing")
LEFT_OUT += ("numpy._core.cversions",)  # of NumPy's own build
# `from numpy import *` takes every name of this list, and there is no Fortran to wrap.
numpy.__all__ = [name for name in numpy.__all__ if name != "f2py"]


def modules():
    for found in pkgutil.walk_packages(numpy.__path__, "numpy."):
        if not any(found.name == name or found.name.startswith(f"{name}.") for name in LEFT_OUT):
            yield found.name


def trial():
    """Known answers from each native module."""
    close = numpy.allclose
    a = numpy.arange(10.0).reshape(2, 5)
    assert close(a @ a.T, [[30, 80], [80, 255]])
    assert close(a.T[::2] @ a[:, ::2], numpy.einsum("ij,ik->jk", a, a)[::2, ::2])
    assert close(numpy.linalg.solve([[3.0, 1.0], [1.0, 2.0]], [9.0, 8.0]), [2, 3])
    assert close(numpy.linalg.eigvalsh([[2.0, 1.0], [1.0, 2.0]]), [1, 3])
    u, s, v = numpy.linalg.svd(a, full_matrices=False)
    assert close(u * s @ v, a)
    assert close(numpy.fft.ifft(numpy.fft.fft(a)).real, a)
    assert close(numpy.random.RandomState(1).rand(2), [4.17022005e-01, 7.20324493e-01])
    assert close(numpy.random.default_rng(0).random(2), [0.63696169, 0.26978671])
    assert numpy.sort([3, 1, 2]).tolist() == numpy.unique([3, 1, 2, 3]).tolist() == [1, 2, 3]
    assert str(numpy.float64(0.1) * 3) == "0.30000000000000004" and f"{numpy.longdouble('0.5')}" == "0.5"
    assert numpy.frombuffer(a.tobytes()).sum() == 45 and numpy.array(["2024-03-01"], "M8[D]").astype(int)[0] == 19783
    refused(lambda: numpy.linalg.inv(numpy.zeros((2, 2))), numpy.linalg.LinAlgError)
    with numpy.errstate(divide="raise"):
        refused(lambda: numpy.array([1]) // 0, FloatingPointError)


def refused(attempt, error):
    try:
        attempt()
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


for _name in modules():
    importlib.import_module(_name)
trial()

from main import WitWorld  # noqa: E402, F401
