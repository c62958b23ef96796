"""Several ranks (logical cores of a tensor-parallel group), each with its own arguments.

```python
group = ncc.ReplicaGroup([[0, 1]])
outputs = nki_sim.ranks.run(lambda rank: kernel[2](shards[rank], group), ranks=2)
```

The ranks meet in the collectives of `nki.collectives`; a meeting that can never happen is an error
that shows where every rank stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .errors import IllegalProgram
from .schedule import Scheduler
from .world import Place, World, enter, place

Arguments = Sequence[Any] | Mapping[str, Any]


def run(
    function: Callable[..., Any] | Sequence[Callable[[], Any]],
    ranks: int,
    arguments: Sequence[Arguments] | None = None,
) -> list[Any]:
    """Run `ranks` ranks and return their results in order.

    Args:
        function: called as ``function(rank)`` on every rank; with `arguments` (a kernel, for
            instance) as ``function(*arguments[rank])`` or ``function(**arguments[rank])``. Or one
            function without parameters per rank.
        ranks: how many.
        arguments: per rank, a sequence of positional or a mapping of keyword arguments.

    Raises:
        IllegalProgram: a rank waits for a collective that others never call, or calls in another
            way; also whatever a rank itself raises first.
    """
    if type(ranks) is not int or ranks < 1:
        raise IllegalProgram("nki_sim.ranks.run", "runs one rank or more", repr(ranks))
    if place() is not None:
        raise IllegalProgram("nki_sim.ranks.run", "is called outside of other ranks", "a rank")
    calls = _calls(function, ranks, arguments)
    results: list[Any] = [None] * ranks
    world = World(ranks, Scheduler())

    def work(rank: int) -> Callable[[], None]:
        def on_rank() -> None:
            enter(Place(world, rank))
            results[rank] = _run_rank(calls[rank])

        return on_rank

    scheduler = world.scheduler
    with scheduler.adopted("the caller"):
        scheduler.join([scheduler.spawn(f"rank {rank}", work(rank)) for rank in range(ranks)])
    if scheduler.failure is not None:
        raise scheduler.failure
    return results


def _run_rank(call: Callable[[], Any]) -> Any:
    return call()


def _calls(
    function: Callable[..., Any] | Sequence[Callable[[], Any]],
    ranks: int,
    arguments: Sequence[Arguments] | None,
) -> list[Callable[[], Any]]:
    given = arguments if arguments is not None else None if callable(function) else function
    if given is not None and len(given) != ranks:
        raise IllegalProgram(
            "nki_sim.ranks.run", f"takes one entry for each of {ranks} ranks", f"{len(given)}"
        )
    if not callable(function):
        return list(function)
    if arguments is None:
        return [_bind(function, (rank,)) for rank in range(ranks)]
    return [_bind(function, arguments[rank]) for rank in range(ranks)]


def _bind(function: Callable[..., Any], arguments: Arguments) -> Callable[[], Any]:
    if isinstance(arguments, Mapping):
        return lambda: function(**arguments)
    return lambda: function(*arguments)
