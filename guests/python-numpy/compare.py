"""Compares two texts of battery.py: python3 compare.py NATIVE INSIDE. Numbers may differ by rounding, words may not."""

import math
import sys

NARROW = {"float16": 5e-3, "float32": 2e-4}


def same(one, other):
    """True when both lines say the same: half and single precision are summed in another order by other loops."""
    first, second = one.split(), other.split()
    within = next((value for kind, value in NARROW.items() if kind in one), 1e-6)
    return len(first) == len(second) and all(map(lambda a, b: a == b or near(a, b, within), first, second))


def near(one, other, within):
    try:
        return math.isclose(float(one), float(other), rel_tol=within, abs_tol=within)
    except ValueError:
        return False


def main(native, inside):
    with open(native, encoding="utf-8") as first, open(inside, encoding="utf-8") as second:
        pairs = list(zip(first.read().splitlines(), second.read().splitlines(), strict=True))
    differ = [pair for pair in pairs if not same(*pair)]
    for one, other in differ:
        print(f"native {one[:200]}\ninside {other[:200]}\n")
    exact = sum(one == other for one, other in pairs)
    close = len(pairs) - exact - len(differ)
    print(f"{len(pairs)} lines: {exact} identical, {close} within rounding, {len(differ)} differ")
    return bool(differ)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
