"""The method: what to ask devices in a round, when the answers suffice, and the update they make (FwdLLM §3)."""

from fwdllm_server.algorithm.forward_gradient import ForwardGradient, Measured, measured_by_device
from fwdllm_server.algorithm.pacing import Verdict
from fwdllm_server.algorithm.plan import BlockPlan
from fwdllm_server.algorithm.robust import directions_measured

__all__ = ["BlockPlan", "ForwardGradient", "Measured", "Verdict", "directions_measured", "measured_by_device"]
