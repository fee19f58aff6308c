#!/bin/sh
# numpy's Philox, the counter-based generator: advance(delta), "Advance the underlying RNG as-if delta draws have
# occurred".
#
# One would guess that after advance(5) the next 64-bit draw is number 5 (counted from 0), and that advance(0) does nothing,
# as with numpy's other generator that has advance, PCG64.
#
# In numpy 2.4.6, as in 1.26.4, a step of Philox is a block of four draws, and what is left of the block at hand is thrown
# away: advance(5) leads to draw 20, and after a single draw advance(0) skips three. The first block is moreover that of
# counter 1: Philox(counter=0) never gives the block that the paper and other implementations give for counter 0.
#
# Why it matters: seeds stand for directions only if every machine makes the same numbers from them. Who makes a slice of a
# direction by advance(start), or writes the generator anew on a phone, gets another direction without noticing: its loss
# changes as plausibly as along the right one.
#
# Seen:
#   fresh, advance(0), (1), (5):             next is draw 0, 4, 20    (PCG64: 0, 1, 5)
#   after one draw, advance(0), (1), (5):    next is draw 4, 8, 24    (PCG64: 1, 2, 6)
#   counter 0 begins with the block of counter 1 (Random123's vector for counter 0, key 0 comes at counter 2^256 - 1)
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
for version in 1.26.4 2.4.6; do
"$place/env/bin/pip" install --quiet --disable-pip-version-check "numpy==$version"
"$place/env/bin/python" - <<'EOF'
import numpy as np
from numpy.random import PCG64, Philox

print("numpy", np.__version__)


def next_draw(generator, drawn, steps):
    stream = generator(7).random_raw(64).tolist()
    bits = generator(7)
    bits.random_raw(drawn)
    return stream.index(bits.advance(steps).random_raw())


found = {}
for generator in (Philox, PCG64):
    for drawn in (0, 1):
        draws = found[generator.__name__, drawn] = [next_draw(generator, drawn, steps) for steps in (0, 1, 5)]
        print(f"{generator.__name__} after {drawn} draws, advance(0), (1), (5): next is draw", *draws)
assert found == {
    ("Philox", 0): [0, 4, 20],
    ("Philox", 1): [4, 8, 24],
    ("PCG64", 0): [0, 1, 5],
    ("PCG64", 1): [1, 2, 6],
}, found

# Random123's known answer of philox4x64-10 for counter 0, key 0 begins with 16554d9eca36314c.
words = {counter: int(Philox(key=0, counter=counter).random_raw()) for counter in (0, 2**256 - 1)}
print({("0" if not counter else "2^256 - 1"): f"{word:016x}" for counter, word in words.items()})
assert words[2**256 - 1] == 0x16554D9ECA36314C != words[0], words
EOF
done
