"""``nki.collectives.ReplicaGroup``: which ranks take part in a collective together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .errors import IllegalProgram
from .objects import NKIObject


class ReplicaGroup(NKIObject):
    """Lists of ranks; a collective runs within each list, and in all of them at once.

    Attributes:
        groups: the lists, in order; a rank stands in one of them at most.
    """

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        legal = isinstance(groups, list | tuple) and all(
            isinstance(one, list | tuple) and one and all(type(r) is int and r >= 0 for r in one)
            for one in groups
        )
        if not legal or not groups:
            raise IllegalProgram("ReplicaGroup", "takes lists of ranks", repr(groups))
        ranks = [rank for one in groups for rank in one]
        if len(set(ranks)) != len(ranks):
            raise IllegalProgram("ReplicaGroup", "a rank stands in one list", repr(groups))
        self.groups = tuple(tuple(one) for one in groups)

    def __repr__(self) -> str:
        return f"ReplicaGroup({[list(one) for one in self.groups]})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReplicaGroup) and self.groups == other.groups

    def __hash__(self) -> int:
        return hash(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return iter(self.groups)

    def __getitem__(self, position: int) -> tuple[int, ...]:
        return self.groups[position]
