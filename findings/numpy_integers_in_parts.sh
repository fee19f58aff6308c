#!/bin/sh
# Random signs for a perturbation are drawn with numpy's Generator.integers(0, 2, n), layer after layer or all at once.
#
# One would guess that 5 numbers and then 4 are the 9 numbers of one call, and that a narrower dtype, which saves memory,
# changes nothing but the memory.
#
# In numpy 2.4.6, as in 1.26.4, the first is so for int64 and int32 but not for int16, int8 and bool, which cut several
# numbers from one 32-bit draw and throw the rest of it away when the call ends. And each of these widths gives other
# numbers.
#
# Why it matters: who sends seeds instead of directions must get the same direction from the same seed. A device that draws
# it per tensor and a coordinator that draws it whole, or one that was moved from int64 to int8 to save memory, agree with
# int64 and part from the second tensor on with int8. Nothing fails: the run only learns nothing. A generator indexed by
# the coordinate has no such state.
#
# Seen (key 1):
#   int64  at once 001100001, in parts 001100001      (int32 is the same)
#   int16  at once 101001110, in parts 101001100
#   int8   at once 110001100, in parts 110000011
#   bool   at once 111110110, in parts 111111101
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
for version in 1.26.4 2.4.6; do
"$place/env/bin/pip" install --quiet --disable-pip-version-check "numpy==$version"
"$place/env/bin/python" - <<'EOF'
import numpy as np

print("numpy", np.__version__)


def drawn(dtype, *sizes):
    generator = np.random.Generator(np.random.Philox(key=1))
    return "".join(str(int(bit)) for size in sizes for bit in generator.integers(0, 2, size, dtype=dtype))


found = {}
for dtype in (np.int64, np.int32, np.int16, np.int8, np.bool_):
    found[np.dtype(dtype).name] = drawn(dtype, 9), drawn(dtype, 5, 4)
    print(f"{np.dtype(dtype).name:6} at once {found[np.dtype(dtype).name][0]}, in parts {found[np.dtype(dtype).name][1]}")
assert found == {
    "int64": ("001100001", "001100001"),
    "int32": ("001100001", "001100001"),
    "int16": ("101001110", "101001100"),
    "int8": ("110001100", "110000011"),
    "bool": ("111110110", "111111101"),
}, found
EOF
done
