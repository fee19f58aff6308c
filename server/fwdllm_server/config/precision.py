"""The number format of the weights that are not trained, on the devices of a job."""

from __future__ import annotations

from typing import Literal

Precision = Literal["float32", "int8", "int4"]
"""The formats; ``int8`` and ``int4`` quantise weights alone: activations, θ and every sum stay float32."""
