"""The device's compute: directional derivatives and accuracy of a model bundle on local rows, by inference alone."""

from fwdllm_client.engine.derivatives import DirectionTask
from fwdllm_client.engine.engine import Engine
from fwdllm_client.engine.evaluate import Evaluation

__all__ = ["DirectionTask", "Engine", "Evaluation"]
