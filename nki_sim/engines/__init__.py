"""The instructions, one class each, grouped by what executes them."""

from .base import Instruction
from .copies import Memset, TensorCopy, TensorCopyPredicated
from .dma import DmaCopy
from .dma_compute import DmaCompute
from .dma_transpose import DmaTranspose
from .gathers import LocalGather, NcNGather, NonzeroWithCount, SequenceBounds, TopK
from .gpsimd import AffineSelect, Iota
from .mx import NcMatmulMx, QuantizeMx
from .random_numbers import Dropout, Rand2, RandGetState, RandSetState, Rng, SetRngSeed
from .reductions import Exponential, TensorPartitionReduce, TensorScalarReduce
from .registers import RegisterLoad, RegisterStore
from .rendezvous import CoreBarrier, SendRecv
from .scalar import Activate2, Activation, ActivationReduce
from .scans import TensorScalarCumulative, TensorTensorScan
from .search import Max8, NcFindIndex8, NcMatchReplace8, NcStreamShuffle
from .selection import RangeSelect, SelectReduce
from .statistics import BnAggr, BnStats
from .tensor import NcMatmul, NcTranspose
from .vector import Reciprocal, ScalarTensorTensor, TensorReduce, TensorScalar, TensorTensor

INSTRUCTIONS: tuple[type[Instruction], ...] = (
    DmaCopy,
    DmaTranspose,
    DmaCompute,
    SendRecv,
    CoreBarrier,
    RegisterLoad,
    RegisterStore,
    TensorCopy,
    TensorCopyPredicated,
    Memset,
    Iota,
    AffineSelect,
    NcStreamShuffle,
    NcMatmul,
    NcTranspose,
    NcMatmulMx,
    QuantizeMx,
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
    RangeSelect,
    SelectReduce,
    TensorScalarReduce,
    TensorScalarCumulative,
    TensorTensorScan,
    TensorPartitionReduce,
    BnStats,
    BnAggr,
    Exponential,
    Activate2,
    NcNGather,
    LocalGather,
    NonzeroWithCount,
    TopK,
    SequenceBounds,
    Dropout,
    Rng,
    Rand2,
    RandGetState,
    RandSetState,
    SetRngSeed,
)
"""Every instruction that is modelled."""
