"""The device's present conditions, and which of them forbid work (DESIGN §9)."""

from fwdllm_client.conditions.conditions import Conditions, Thermal
from fwdllm_client.conditions.gate import Gate
from fwdllm_client.conditions.holds import Hold
from fwdllm_client.conditions.rules import Rules
from fwdllm_client.conditions.sensors import Sensors, sensors_of_this_machine

__all__ = ["Conditions", "Gate", "Hold", "Rules", "Sensors", "Thermal", "sensors_of_this_machine"]
