from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ThermalState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    THERMAL_STATE_UNSPECIFIED: _ClassVar[ThermalState]
    THERMAL_STATE_NONE: _ClassVar[ThermalState]
    THERMAL_STATE_LIGHT: _ClassVar[ThermalState]
    THERMAL_STATE_MODERATE: _ClassVar[ThermalState]
    THERMAL_STATE_SEVERE: _ClassVar[ThermalState]
    THERMAL_STATE_CRITICAL: _ClassVar[ThermalState]

class Hold(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HOLD_UNSPECIFIED: _ClassVar[Hold]
    HOLD_PAUSED: _ClassVar[Hold]
    HOLD_UNPLUGGED: _ClassVar[Hold]
    HOLD_LOW_BATTERY: _ClassVar[Hold]
    HOLD_METERED: _ClassVar[Hold]
    HOLD_HOT: _ClassVar[Hold]
    HOLD_SETTLING: _ClassVar[Hold]
    HOLD_RESTING: _ClassVar[Hold]
THERMAL_STATE_UNSPECIFIED: ThermalState
THERMAL_STATE_NONE: ThermalState
THERMAL_STATE_LIGHT: ThermalState
THERMAL_STATE_MODERATE: ThermalState
THERMAL_STATE_SEVERE: ThermalState
THERMAL_STATE_CRITICAL: ThermalState
HOLD_UNSPECIFIED: Hold
HOLD_PAUSED: Hold
HOLD_UNPLUGGED: Hold
HOLD_LOW_BATTERY: Hold
HOLD_METERED: Hold
HOLD_HOT: Hold
HOLD_SETTLING: Hold
HOLD_RESTING: Hold

class Conditions(_message.Message):
    __slots__ = ("charging", "battery_percent", "metered", "thermal", "holds")
    CHARGING_FIELD_NUMBER: _ClassVar[int]
    BATTERY_PERCENT_FIELD_NUMBER: _ClassVar[int]
    METERED_FIELD_NUMBER: _ClassVar[int]
    THERMAL_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    charging: bool
    battery_percent: float
    metered: bool
    thermal: ThermalState
    holds: _containers.RepeatedScalarFieldContainer[Hold]
    def __init__(self, charging: bool = ..., battery_percent: _Optional[float] = ..., metered: bool = ..., thermal: _Optional[_Union[ThermalState, str]] = ..., holds: _Optional[_Iterable[_Union[Hold, str]]] = ...) -> None: ...
