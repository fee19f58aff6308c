"""Another CPU is another set of SIMD kernels inside numpy: the known run must not notice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parent.parent
KNOWN = json.loads((Path(__file__).parent / "known_run.json").read_text())
PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from common.runs import DISTRIBUTIONS, KINDS, known_digest
simd = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
digests = {drawn: {kind: known_digest(kind, 4, drawn) for kind in KINDS} for drawn in DISTRIBUTIONS}
print(json.dumps({"simd": simd, "theta": digests}))
"""


def dispatched_features():
    """The instruction sets beyond its baseline that numpy uses on this machine."""
    return np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])


def replay_without(features):
    environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(features)}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(TESTS)], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout)


@pytest.mark.skipif(not dispatched_features(), reason="numpy uses no instruction set that could be switched off")
@pytest.mark.parametrize("kept", sorted({0, len(dispatched_features()) // 2}))
def test_theta_is_the_known_one_with_fewer_cpu_features(kept):
    features = dispatched_features()
    answer = replay_without(features[kept:])
    assert answer["simd"] == features[:kept]
    for distribution, key in (("rademacher", "theta"), ("gaussian", "theta_gaussian")):
        assert answer["theta"][distribution] == {kind: digests[-1] for kind, digests in KNOWN[key].items()}
