"""The device's engine: directional derivatives and accuracy of a model bundle on local rows, by inference alone."""

from fwdllm_client.engine.batches import distinct_rows, padded_lengths, sample_rows
from fwdllm_client.engine.class_sums import ClassSum
from fwdllm_client.engine.cost import PassCost
from fwdllm_client.engine.derivatives import DirectionTask
from fwdllm_client.engine.device import DeviceEngines
from fwdllm_client.engine.engine import Engine
from fwdllm_client.engine.evaluate import Evaluation

__all__ = [
    "ClassSum",
    "DeviceEngines",
    "DirectionTask",
    "Engine",
    "Evaluation",
    "PassCost",
    "distinct_rows",
    "padded_lengths",
    "sample_rows",
]
