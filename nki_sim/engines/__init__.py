"""The instructions, one class each, grouped by what executes them."""

from .base import Instruction
from .copies import Memset, TensorCopy, TensorCopyPredicated
from .dma import DmaCopy
from .gpsimd import AffineSelect, Iota
from .scalar import Activation, ActivationReduce
from .search import Max8, NcFindIndex8, NcMatchReplace8, NcStreamShuffle
from .tensor import NcMatmul, NcTranspose
from .vector import Reciprocal, ScalarTensorTensor, TensorReduce, TensorScalar, TensorTensor

INSTRUCTIONS: tuple[type[Instruction], ...] = (
    DmaCopy,
    TensorCopy,
    TensorCopyPredicated,
    Memset,
    Iota,
    AffineSelect,
    NcStreamShuffle,
    NcMatmul,
    NcTranspose,
    TensorTensor,
    TensorScalar,
    ScalarTensorTensor,
    TensorReduce,
    Reciprocal,
    Activation,
    ActivationReduce,
    Max8,
    NcFindIndex8,
    NcMatchReplace8,
)
"""Every instruction that is modelled."""
