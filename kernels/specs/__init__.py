"""What each kernel is, which inputs it must handle, how exactly, and which it must refuse.

Data that tests, the model's dispatch and the report read; one module per family of kernels.
"""

from __future__ import annotations

from kernels.specs.base import DTYPES, EPS, Case, Inputs, KernelSpec, Kind, Refusal, Tolerance
from kernels.specs.decode_attention import DECODE_ATTENTION_KERNELS
from kernels.specs.decode_layer import DECODE_LAYER_KERNELS
from kernels.specs.lm_head import LM_HEAD
from kernels.specs.moe import MOE_KERNELS
from kernels.specs.prefill_attention import PREFILL_ATTENTION_KERNELS
from kernels.specs.rows import ROW_KERNELS

__all__ = ["DTYPES", "EPS", "SPECS", "Case", "Inputs", "KernelSpec", "Kind", "Refusal", "Tolerance"]

FAMILIES = (
    *ROW_KERNELS,
    *DECODE_ATTENTION_KERNELS,
    *MOE_KERNELS,
    LM_HEAD,
    *DECODE_LAYER_KERNELS,
    *PREFILL_ATTENTION_KERNELS,
)
SPECS: dict[str, KernelSpec] = {spec.name: spec for spec in FAMILIES}
