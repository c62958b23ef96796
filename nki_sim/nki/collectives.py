"""``nki.collectives``: known by name, not modelled."""

from __future__ import annotations

from ..objects import NKIObject as NKIObject
from ._surface import not_modelled

NOT_MODELLED = (
    "ReplicaGroup", "all_gather", "all_gather_v", "all_reduce", "all_to_all", "all_to_all_v",
    "collective_permute", "collective_permute_implicit",
    "collective_permute_implicit_current_processing_rank_id", "collective_permute_implicit_reduce",
    "rank_id", "reduce_scatter",
)  # fmt: skip

for _name in NOT_MODELLED:
    globals()[_name] = not_modelled("nki.collectives", _name)
