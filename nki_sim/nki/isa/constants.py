"""``nki.isa.constants``: the enumerations of nki.isa."""

from ...constants import DgeMode as dge_mode
from ...constants import DmaEngine as dma_engine
from ...constants import Engine as engine
from ...constants import MatmulPerfMode as matmul_perf_mode
from ...constants import NcVersion as nc_version
from ...constants import OobMode as oob_mode
from ...constants import ReduceCmd as reduce_cmd

__all__ = [
    "dge_mode",
    "dma_engine",
    "engine",
    "matmul_perf_mode",
    "nc_version",
    "oob_mode",
    "reduce_cmd",
]
