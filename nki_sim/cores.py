"""Two cores that run one kernel (LNC2): shared HBM, private on-chip memories, rendezvous, races.

Each core runs the whole Python of the kernel with its own `Program`; what they share is a `Crew`.
Between two rendezvous the cores are not ordered: accesses of both to the same elements of shared
HBM, one of them a write, are a race, whatever order they happened to run in here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .constants import SHARED_HBM, NcVersion, OobMode
from .dtypes import Array, DType
from .errors import IllegalProgram, NotModelled, UninitialisedRead
from .indirect import IndirectTensor
from .machine import Program, current, platform_from_environment, run_as
from .memory import Shape, Storage, new_storage
from .schedule import Abandoned, Scheduler, call_site, current_task
from .trace import Launch, open_launch
from .views import NkiTensor
from .world import Place, place

if TYPE_CHECKING:
    from .engines.base import Instruction

CORES = 2


@dataclass(slots=True)
class Access:
    """One instruction's access to shared HBM.

    Attributes:
        core: who.
        writes: it writes (and perhaps reads); otherwise it reads only.
        tensor: the window.
        places: element numbers instead of the window, for dynamic offsets.
        text: the instruction and where it stands, for errors.
        changed: of a write to a tensor written before: which elements got other bytes than they
            had; None if all have to be taken as changed.
    """

    core: int
    writes: bool
    tensor: NkiTensor
    places: Array | None
    text: str
    changed: Array | None = None

    def over(self, units: Array, unit: int) -> Array:
        """This access's part of one value per `unit` bytes of the storage; last dimension: the
        units of an element.
        """
        ratio = self.tensor.storage.element(self.tensor.dtype).itemsize // unit
        if self.places is not None:
            return units.reshape(-1, ratio)[self.places]
        tensor = self.tensor
        strides = [stride * ratio * units.itemsize for stride in tensor.strides]
        offset = tensor.offset * ratio * units.itemsize
        shape = (*tensor.shape, ratio)
        return np.ndarray(shape, units.dtype, units, offset, (*strides, units.itemsize))

    def paint(self, flags: Array, unit: int, chosen: Array | bool = True) -> None:
        """Set this access's flags, or those of some of its elements (shaped like `over`)."""
        if self.places is None:
            self.over(flags, unit)[...] |= chosen
        else:
            ratio = self.tensor.storage.element(self.tensor.dtype).itemsize // unit
            flags.reshape(-1, ratio)[self.places] |= chosen

    def snapshot(self) -> Array:
        """The bytes that it reaches, copied; last dimension: the bytes of an element."""
        return self.over(self.tensor.storage.buffer, 1).copy()

    def changed_of(self, flags: Array, unit: int) -> Array:
        """Its part of `flags`, without the elements whose bytes it left as they were."""
        mine = self.over(flags, unit)
        return mine if self.changed is None else mine & self.changed[..., None]

    def meets(self, flags: Array, unit: int) -> bool:
        """Whether one of its flags is set."""
        return bool(self.over(flags, unit).any())


class Crew:
    """What the cores of one launch share.

    Attributes:
        scheduler: who runs when.
        cores: how many there are.
        place: the rank that this launch belongs to, or None.
        launch: the account of all cores together.
        shared: the tensors in shared HBM that the kernel allocates, in order.
        accesses: accesses to shared HBM since the last rendezvous, by storage.
        errors: of cores that read what nobody had written, by core: possibly a race's effect.
    """

    def __init__(
        self, scheduler: Scheduler, cores: int, where: Place | None, launch: Launch
    ) -> None:
        self.scheduler = scheduler
        self.launch = launch
        self.cores = cores
        self.place = where
        self.shared: list[Storage] = []
        self.accesses: dict[int, list[Access]] = {}
        self.errors: dict[int, UninitialisedRead] = {}
        self.inputs: frozenset[int] = frozenset()

    def check_races(self) -> None:
        """Raise for the first race since the last rendezvous, and forget the accesses."""
        found, self.accesses = self.accesses, {}
        for accesses in found.values():
            if any(access.writes for access in accesses):
                _check_storage(accesses, self.launch)


def _check_storage(accesses: list[Access], launch: Launch) -> None:
    """Raise for the first race in accesses to one storage, given in the order in which they ran.

    Writes of both cores to the same elements are only worth a finding where all of them write the
    same bytes: whichever comes last, the result is the same. So a core may read there what it has
    written itself.
    """
    storage = accesses[0].tensor.storage
    unit = min(storage.element(a.tensor.dtype).itemsize for a in accesses)
    written = [np.zeros(storage.length // unit, np.bool_) for _ in range(CORES)]
    varied = np.zeros(storage.length // unit, np.bool_)
    for access in accesses:
        if access.writes:
            for core in range(CORES):
                access.paint(varied, unit, access.changed_of(written[core], unit))
            access.paint(written[access.core], unit)
    both = written[0] & written[1]
    if both.any() and storage.hollow:
        launch.assume("both cores write equal bytes to the same elements")
        varied[...] = False
    mine = [np.zeros(storage.length // unit, np.bool_) for _ in range(CORES)]
    for access in accesses:
        if access.writes:
            access.paint(mine[access.core], unit)
            meets = access.meets(both & varied, unit)
        else:
            theirs = written[1 - access.core]
            meets = access.meets(theirs, unit) and access.meets(
                theirs & (varied | ~mine[access.core]), unit
            )
        if meets:
            raise _race(accesses, access, unit)
        if access.core == 1 and access.writes and not storage.hollow and access.meets(both, unit):
            launch.find(
                f"{access.text}: the same bytes that core 0 writes there, with no rendezvous "
                "between them"
            )


def _race(accesses: list[Access], one: Access, unit: int) -> IllegalProgram:
    """The error for an access and the first write of the other core that meets it."""
    flags = np.zeros(one.tensor.storage.length // unit, np.bool_)
    one.paint(flags, unit)
    writes = (a for a in accesses if a.core != one.core and a.writes)
    other = next(access for access in writes if access.meets(flags, unit))
    first, second = sorted((one, other), key=lambda access: access.core)
    return IllegalProgram(
        other.text.split()[0],
        "what both cores access in shared HBM, and one of them writes, is ordered by a rendezvous",
        f"core {first.core}: {first.text} and core {second.core}: {second.text}, with elements in "
        "common and no core_barrier or sendrecv between them",
        "call nisa.core_barrier(tensor, (0, 1)) on both cores between the two",
    )


class Seat:
    """One core's place in its crew; `Program.seat`.

    Attributes:
        core: its number.
        allocated: how many tensors in shared HBM it has allocated.
        contested: the running instruction's writes to tensors written before, and what was there.
    """

    __slots__ = ("allocated", "contested", "core", "crew")

    def __init__(self, crew: Crew, core: int) -> None:
        self.crew = crew
        self.core = core
        self.allocated = 0
        self.contested: list[tuple[Access, Array]] = []

    @property
    def label(self) -> Hashable:
        """What tells this core from all others of the run."""
        return (self.crew.place.rank if self.crew.place else 0, self.core)

    def check(self, instruction: Instruction) -> dict[str, int]:
        """`Instruction.check` beside others: let them run first, note accesses to shared HBM."""
        self.crew.scheduler.pause()
        try:
            sizes = instruction.check()
        except UninitialisedRead:
            self._note_all(instruction)
            raise
        self._note_all(instruction)
        return sizes

    def _note_all(self, instruction: Instruction) -> None:
        if self.crew.cores == 1 or instruction.meets or not current(instruction.opcode).checked:
            return
        for operand, tensor in instruction.tensors():
            if tensor.buffer is SHARED_HBM:
                self._note(instruction, operand.access != "read", tensor)

    def _note(self, instruction: Instruction, writes: bool, tensor: NkiTensor) -> None:
        places, window = None, tensor
        if isinstance(tensor, IndirectTensor):
            if not current(instruction.opcode).numeric or not tensor.index_is_written():
                return  # nobody knows where
            resolved = tensor.resolved(instruction.opcode)
            if resolved is None:
                numbers, inside = tensor.elements(instruction.opcode, OobMode.skip)
                places = numbers[inside].reshape(-1)
            else:
                window = resolved
        name = f" {instruction.name!r}" if instruction.name else ""
        verb = "writes" if writes else "reads"
        text = f"{instruction.opcode}{name} ({call_site()}) {verb} {tensor}"
        access = Access(self.core, writes, window, places, text)
        earlier = self.crew.accesses.setdefault(tensor.storage.serial, [])
        if writes and not tensor.storage.hollow and any(one.writes for one in earlier):
            self.contested.append((access, access.snapshot()))
        earlier.append(access)

    def settle(self) -> None:
        """Note what the instruction that has run changed of what had been written before."""
        for access, before in self.contested:
            access.changed = (access.snapshot() != before).any(axis=-1)
        self.contested.clear()

    def shared_storage(self, program: Program, shape: Shape, dtype: DType, name: str) -> Storage:
        """The memory of this core's next tensor in shared HBM: the same for both cores."""
        number, self.allocated = self.allocated, self.allocated + 1
        shared = self.crew.shared
        if number == len(shared):
            shared.append(new_storage(program, shape, dtype, SHARED_HBM, name))
        found = shared[number]
        if (found.shape, found.dtype) != (shape, dtype.name):
            raise IllegalProgram(
                "nl.ndarray",
                "both cores allocate the same tensors in shared HBM, in the same order",
                f"{name or 'a tensor'} {shape} {dtype.name} on core {self.core} where the other "
                f"has {found.name or 'a tensor'} {found.shape} {found.dtype}",
                "allocate it outside of conditions on program_id, or in nl.private_hbm",
            )
        if found.name != name:
            raise NotModelled(
                "nl.ndarray",
                "tensors in shared HBM are matched by their order; other names on the other core "
                "are not modelled",
                f"{name!r} on core {self.core}, {found.name!r} on the other",
                "use one name on both cores, or nl.private_hbm",
            )
        return found

    def meet(
        self, key: Hashable, payload: Any, act: Callable[[dict[Any, Any]], None], what: str, by: str
    ) -> int:
        """A rendezvous of this launch's cores; ``act({core: payload})`` runs once."""

        def arrived(brought: dict[Any, Any]) -> None:
            self.crew.check_races()
            act(brought)

        scheduler = self.crew.scheduler
        return scheduler.meet(
            (id(self.crew), key), self.crew.cores, self.core, payload, arrived, what, by
        )


def launch(
    name: str,
    work: Callable[[], Any],
    dimensions: int,
    cores: int,
    precise: bool,
    inputs: frozenset[int],
) -> Any:
    """Run ``work()`` on `cores` cores, perhaps as one rank of several; its result on core 0."""
    platform = platform_from_environment()
    if cores > 1 and platform.version is NcVersion.gen2:
        raise IllegalProgram(
            name,
            "LNC2, a launch on two cores, exists from trn2 on",
            platform.name,
            "set NEURON_PLATFORM_TARGET_OVERRIDE=trn2 if the kernel is for it, or launch kernel[1]",
        )
    total = open_launch(name)
    accounts = [total] if cores == 1 else [_account(total, core) for core in range(cores)]
    where = place()
    scheduler = Scheduler() if where is None else where.world.scheduler
    crew = Crew(scheduler, cores, where, total)
    crew.inputs = inputs
    programs = [
        Program(account, platform, core, cores, dimensions, precise)
        for core, account in enumerate(accounts)
    ]
    for core, program in enumerate(programs):
        program.seat = Seat(crew, core)
    try:
        results = _run(crew, programs, work)
    finally:
        for program in programs:
            program.launch.close(program)
        if cores > 1:
            total.merge(accounts)
    _check_results(name, results)
    return results[0]


def _account(total: Launch, core: int) -> Launch:
    return Launch(
        total.kernel, recording=total.recording, mode=total.mode, passes=total.passes, core=core
    )


def _run(crew: Crew, programs: Sequence[Program], work: Callable[[], Any]) -> list[Any]:
    """The results of all cores."""
    results: list[Any] = [None] * len(programs)
    scheduler = crew.scheduler

    def core_work(core: int) -> Callable[[], None]:
        def on_core() -> None:
            results[core] = _run_core(crew, programs[core], work)

        return on_core

    prefix = f"rank {crew.place.rank} " if crew.place else ""
    if crew.place is None:
        with scheduler.adopted("core 0"):
            _run_together(crew, [core_work(core) for core in range(len(programs))], prefix)
        return results
    task = current_task()
    label = task.label
    task.label = f"{prefix}core 0" if crew.cores > 1 else label
    try:
        _run_together(crew, [core_work(core) for core in range(len(programs))], prefix)
    finally:
        task.label = label
    return results


def _run_together(crew: Crew, works: list[Callable[[], None]], prefix: str) -> None:
    """Run the first on this thread, the others beside it; raise what went wrong."""
    scheduler = crew.scheduler
    others = [scheduler.spawn(f"{prefix}core {n}", w) for n, w in enumerate(works[1:], 1)]
    failure: BaseException | None = None
    try:
        works[0]()
    except BaseException as error:
        scheduler.fail(error)
        failure = error
    if others:
        scheduler.join(others)
    _raise(crew, failure)


def _raise(crew: Crew, mine: BaseException | None) -> None:
    """Raise the error of a launch that has one; a race before its effects."""
    scheduler = crew.scheduler
    real = mine is not None and not isinstance(mine, Abandoned)
    if crew.errors or not (real or scheduler.stopping):
        first = next(iter(crew.errors.values()), None)
        try:
            crew.check_races()
        except IllegalProgram as race:
            scheduler.failure = race
            scheduler.stopping = True
            raise race from first
        if first is not None:
            scheduler.fail(first)
            raise first
    if mine is not None and (real or scheduler.failure is None):
        raise mine
    if scheduler.failure is not None:
        raise scheduler.failure


def _run_core(crew: Crew, program: Program, work: Callable[[], Any]) -> Any:
    """One core's run. What reads memory that nobody has written ends alone: the other core goes on
    until it is known whether it would have written it.
    """
    with run_as(program), np.errstate(all="ignore"):
        try:
            result = work()
            if program.fault is not None:
                raise program.fault
            return result
        except UninitialisedRead as error:
            if crew.cores == 1:
                raise
            crew.errors[program.program_id] = error
            crew.scheduler.deferred.append(error)
            current_task().failed = True
            return None


def _check_results(name: str, results: list[Any]) -> None:
    shown = [_outline(result) for result in results]
    if any(one != shown[0] for one in shown):
        raise IllegalProgram(
            name,
            "both cores return the same tensors in shared HBM",
            f"{results[0]!r} from core 0, {results[1]!r} from core 1",
            "allocate the outputs in nl.shared_hbm and return them on both cores",
        )


def _outline(result: Any) -> Any:
    """What must agree between the cores' results."""
    if isinstance(result, tuple | list):
        return [_outline(item) for item in result]
    if isinstance(result, NkiTensor):
        return result.storage.serial, result.shape, result.strides, result.offset, result.dtype
    return type(result)
