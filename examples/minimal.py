"""The method on one page: seeds down, scalars up, a forward gradient, a step and a replay. Needs numpy alone.

    python examples/minimal.py

Equation numbers are those of docs/algorithm.md. ``tests/common/test_minimal.py`` asserts that ``fwdllm_common``
computes the same bits.
"""

import numpy as np

D, DIRECTIONS, ROUNDS, DEVICES = 10, 64, 20, 4
RUN_KEY, EPSILON, LEARNING_RATE = 2024, np.float32(1e-3), np.float32(0.5)
FIXED_POINT = 1 << 24  # scalars are integers in units of 2⁻²⁴, so that their sum has no order


def direction(seed: int) -> np.ndarray:
    """Return the direction v of a seed, int64 ``[D]``: coordinate i is ±1 by bit i of Philox4x64-10 (DESIGN §5)."""
    words = np.random.Philox(key=np.array([RUN_KEY, seed], dtype=np.uint64)).random_raw(-(-D // 64))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little")[:D]
    return 2 * bits.astype(np.int64) - 1


def private_rows(device: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a device, which never leave it: features ``[32, D]`` and labels ``[32]`` of 0 and 1."""
    rng = np.random.default_rng(device)
    features = rng.standard_normal((32, D))
    return features, (features @ np.arange(1, D + 1) > 0).astype(float)


def loss(theta: np.ndarray, device: int) -> float:
    """Return the device's mean logistic loss at θ, float32 ``[D]``. Any loss that can be evaluated will do."""
    features, labels = private_rows(device)
    logits = features @ theta
    return float(np.mean(np.logaddexp(0, logits) - labels * logits))


def measure(theta: np.ndarray, device: int, seeds: range) -> list[int]:
    """Return the scalar of each seed, as a device sends it: (L(θ + εv) − L(θ)) / ε in fixed point."""
    base = loss(theta, device)
    moved = [loss(theta + EPSILON * direction(seed).astype(np.float32), device) for seed in seeds]
    return [round((value - base) / float(EPSILON) * FIXED_POINT) for value in moved]


def forward_gradient(seeds: list[int], scalars: list[int]) -> np.ndarray:
    """Return ĝ = (1/K) Σ cₖ vₖ, float32 ``[D]``, summed in int64 and rounded once (equation 3: E ĝ = ∇L)."""
    total = np.array(scalars, dtype=np.int64) @ np.array([direction(seed) for seed in seeds])
    mean: np.ndarray = total / (len(seeds) * FIXED_POINT)
    return mean.astype(np.float32)


def step(theta: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Return θ − η ĝ: separate float32 operations, the same on every machine."""
    return theta - LEARNING_RATE * gradient


def train() -> tuple[np.ndarray, list[tuple[list[int], list[int]]]]:
    """Run every round. Return θ, float32 ``[D]``, and the ledger: the seeds and scalars of each round."""
    theta = np.zeros(D, dtype=np.float32)
    ledger: list[tuple[list[int], list[int]]] = []
    for number in range(1, ROUNDS + 1):
        seeds: list[int] = []
        scalars: list[int] = []
        for device in range(DEVICES):  # each measures its own directions on its own rows
            first = (number << 32) + device * (DIRECTIONS // DEVICES)
            own = range(first, first + DIRECTIONS // DEVICES)
            seeds += own
            scalars += measure(theta, device, own)
        theta = step(theta, forward_gradient(seeds, scalars))
        ledger.append((seeds, scalars))
    return theta, ledger


def replay(ledger: list[tuple[list[int], list[int]]]) -> np.ndarray:
    """Return θ as the ledger defines it, float32 ``[D]``: no row, no loss and no device is needed."""
    theta = np.zeros(D, dtype=np.float32)
    for seeds, scalars in ledger:
        theta = step(theta, forward_gradient(seeds, scalars))
    return theta


if __name__ == "__main__":
    theta, ledger = train()
    before, after = (np.mean([loss(at, device) for device in range(DEVICES)]) for at in (np.zeros(D), theta))
    assert replay(ledger).tobytes() == theta.tobytes()
    print(f"loss {before:.3f} before, {after:.3f} after {ROUNDS} rounds; the replay of the ledger gives the same bits")
