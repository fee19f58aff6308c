"""Property tests draw the same examples every time and never fail for being slow on a busy machine.

For a search beyond that: ``FWDLLM_EXAMPLES=5000 pytest tests/common`` draws that many, new ones each time.
"""

import os

from hypothesis import HealthCheck, settings

_EXAMPLES = os.environ.get("FWDLLM_EXAMPLES")

settings.register_profile(
    "common",
    derandomize=_EXAMPLES is None,
    max_examples=int(_EXAMPLES or 100),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("common")
