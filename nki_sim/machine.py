"""The simulated core: platforms, and the state of the program that runs on it.

One `Program` exists per launch and core. Kernels reach it through `current()`; nothing of it
outlives the launch.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .constants import PSUM, SBUF, Engine, MemoryRegion, NcVersion
from .dtypes import Array
from .errors import IllegalProgram
from .modes import SHAPES, TAILS, UNCHECKED
from .pools import Pool
from .watch import Watcher, watching

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .addresses import Box, Places
    from .memory import Storage
    from .trace import Launch

PARTITIONS = 128
PSUM_BANK_BYTES = 2048
PSUM_BANKS = 8


@dataclass(frozen=True, slots=True)
class Platform:
    """A generation of the chip.

    Attributes:
        name: ``trn1``, ``trn2`` or ``trn3``.
        version: the NeuronCore generation.
        sbuf_bytes: usable SBUF bytes per partition (constants of the 0.2.0 front end; the rest is
            the compiler's).
    """

    name: str
    version: NcVersion
    sbuf_bytes: int


TRN1 = Platform("trn1", NcVersion.gen2, 180224)
TRN2 = Platform("trn2", NcVersion.gen3, 212984)
TRN3 = Platform("trn3", NcVersion.gen4, 245752)
PLATFORM_OF = {platform.version: platform for platform in (TRN1, TRN2, TRN3)}
_PLATFORMS = {"trn1": TRN1, "gen2": TRN1, "trn2": TRN2, "gen3": TRN2, "trn3": TRN3, "gen4": TRN3}


def platform_named(name: str) -> Platform | None:
    """The platform of a name (``trn2`` or ``gen3``), or None."""
    return _PLATFORMS.get(name)


def platform_from_environment() -> Platform:
    """The platform that NEURON_PLATFORM_TARGET_OVERRIDE names; trn2 when it is not set."""
    name = os.environ.get("NEURON_PLATFORM_TARGET_OVERRIDE") or "trn2"
    platform = platform_named(name)
    if platform is None:
        raise IllegalProgram(
            "NEURON_PLATFORM_TARGET_OVERRIDE", f"must be one of {', '.join(_PLATFORMS)}", repr(name)
        )
    return platform


def precise_from_environment() -> bool:
    """False when NKI_PRECISE_FP=0 asks that low-precision floats be kept as float32."""
    watcher = watching()
    if watcher is not None:
        return watcher.precise
    return os.environ.get("NKI_PRECISE_FP", "1") != "0"


@dataclass(slots=True)
class Program:
    """What one core holds while it runs one kernel.

    Attributes:
        launch: the account that its instructions are written to.
        platform: the chip.
        program_id, num_programs, program_ndim: position in the launch grid (no grid: 0, 1, 0).
        precise: False keeps low-precision floats as float32 (NKI_PRECISE_FP=0).
        pools: capacity accounting of SBUF and PSUM.
        accumulators: per engine, the 128 fp32 registers of its reducing instructions, and which of
            them are valid.
        random: per engine, the state of its random number generator (`engines.random`).
        places: the tensors at explicit addresses, by memory.
        names: the explicit names used so far, by kind.
        numbers: positions in program order of the instructions with a name.
        checked, numeric: whether instructions are checked, and whether they compute (`modes`).
        follows_tails: whether instructions may compute on what nobody has written (`tails`).
        watcher: who executes the instructions in their place, if anybody.
        seat: its place among the cores and ranks that run beside it (`cores`); None when it is
            alone.
        ordered: how many ``nl.no_reorder`` blocks it is in.
        fault: an error that could not be raised where it was noticed; raised at the end.
        passes_left: of each loop on an unknown register, how often it will run (on shapes).
    """

    launch: Launch
    platform: Platform
    program_id: int = 0
    num_programs: int = 1
    program_ndim: int = 0
    precise: bool = True
    pools: dict[MemoryRegion, Pool] = field(default_factory=dict)
    accumulators: dict[Engine, tuple[Array, Array]] = field(default_factory=dict)
    random: dict[Engine, Array] = field(default_factory=dict)
    places: dict[MemoryRegion, Places] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    names: dict[str, set[str]] = field(
        default_factory=lambda: {"instruction": set(), "tensor": set()}
    )
    checked: bool = field(init=False)
    numeric: bool = field(init=False)
    follows_tails: bool = field(init=False)
    watcher: Watcher | None = field(default_factory=watching)
    seat: Any = None
    ordered: int = 0
    fault: IllegalProgram | None = None
    passes_left: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.checked = self.launch.mode != UNCHECKED
        self.numeric = self.launch.mode != SHAPES
        self.follows_tails = self.launch.mode == TAILS
        watched = self.launch.recording
        sbuf_bytes = self.platform.sbuf_bytes
        self.pools[SBUF] = Pool("SBUF", sbuf_bytes, "bytes per partition", watched=watched)
        self.pools[PSUM] = Pool("PSUM", PSUM_BANKS, "banks", watched=watched)

    def place(self, region: MemoryRegion, storage: Storage, box: Box) -> None:
        """Note where a tensor with an explicit address lies."""
        from .addresses import Places, warn_mixed  # imports this module

        places = self.places.get(region)
        if places is None:
            places = self.places[region] = Places()
            if len(self.pools[region].holders) > 1:
                warn_mixed(region)
        places.add(storage, box, tracked=self.checked and self.numeric and self.precise)

    def claim_name(self, kind: str, name: str, operation: str) -> None:
        """Record an explicit ``name=``; the compiler refuses a second use."""
        if not isinstance(name, str):
            raise IllegalProgram(operation, "a name is a string", repr(name))
        taken = self.names[kind]
        if name in taken:
            raise IllegalProgram(
                operation,
                f"every {kind} name is unique in a kernel",
                f"name={name!r} a second time",
                "add the loop index to the name, or leave it out",
            )
        taken.add(name)

    def accumulator(self, engine: Engine) -> tuple[Array, Array]:
        """Values [128] fp32 and validity [128] of an engine's accumulator registers."""
        found = self.accumulators.get(engine)
        if found is None:
            found = np.zeros(PARTITIONS, np.float32), np.zeros(PARTITIONS, np.bool_)
            self.accumulators[engine] = found
        return found


_current: ContextVar[Program | None] = ContextVar("nki_sim_program", default=None)


def running() -> Program | None:
    """The program that this thread runs, or None outside a kernel."""
    return _current.get()


def current(operation: str) -> Program:
    """The program that this thread runs.

    Raises:
        IllegalProgram: outside a kernel.
    """
    program = _current.get()
    if program is None:
        raise IllegalProgram(
            operation,
            "only a running kernel can do this",
            "a call outside a kernel",
            "decorate the function with @nki.jit",
        )
    return program


@contextmanager
def run_as(program: Program) -> Iterator[Program]:
    """Make `program` the current one."""
    token = _current.set(program)
    try:
        yield program
    finally:
        _current.reset(token)
