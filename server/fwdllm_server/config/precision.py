"""In which numbers a job's devices keep the weights that are not trained."""

from __future__ import annotations

from typing import Literal

Precision = Literal["float32", "int8", "int4"]
"""``int8`` and ``int4`` are weights alone: activations, θ and every sum stay float32."""
