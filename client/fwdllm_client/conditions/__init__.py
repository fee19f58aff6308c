"""What the device is like now, and what of it keeps the agent from working (DESIGN §9)."""

from fwdllm_client.conditions.conditions import Conditions, Thermal
from fwdllm_client.conditions.gate import Gate
from fwdllm_client.conditions.holds import Hold
from fwdllm_client.conditions.rules import Rules
from fwdllm_client.conditions.sensors import Sensors, sensors_of_this_machine

__all__ = ["Conditions", "Gate", "Hold", "Rules", "Sensors", "Thermal", "sensors_of_this_machine"]
