import numpy as np
import pytest
from client.engine.tiny_bundle import LABELS, WIDTH

from fwdllm_client.engine.cost import PassCost


def test_shares_add_up_to_one_pass(bundle):
    cost = PassCost(bundle.manifest)
    tokens = np.array([8, 16, 20])
    cost.add(tokens, 0, 3)
    assert cost.example_passes == pytest.approx(3)
    cost.add(np.array([8]), 1, 3, times=4)
    peft, head = WIDTH * WIDTH * 8, WIDTH * LABELS + LABELS
    assert cost.example_passes == pytest.approx(3 + 4 * (peft + head) / (2 * peft + head))
