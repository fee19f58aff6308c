"""The method: what to ask devices in a round, when the answers suffice, and the update they make (FwdLLM §3)."""

from fwdllm_server.algorithm.measured import Measured, measured_by_device
from fwdllm_server.algorithm.pacing import Verdict
from fwdllm_server.algorithm.plan import BlockPlan
from fwdllm_server.algorithm.robust_aggregation import directions_measured
from fwdllm_server.algorithm.run import Run

__all__ = ["BlockPlan", "Measured", "Run", "Verdict", "directions_measured", "measured_by_device"]
