"""Which names and parameters each release has: ``signatures.txt``, and what it leaves out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .versions import VERSIONS, between

TABLE = Path(__file__).with_name("signatures.txt")

_TOKENS_BEFORE_DOCUMENTED = (
    "arctan", "copy", "erf", "erf_dx", "exp", "gelu", "gelu_apprx_sigmoid_dx", "gelu_apprx_tanh",
    "gelu_dx", "log", "mish", "relu", "sigmoid", "sign", "silu", "silu_dx", "sin", "softplus",
    "sqrt", "square", "tanh",
)  # fmt: skip
"""Activation functions that the 0.2.0 front end takes as ``op=`` though its pages omit them."""

_TILE_SIZES = {
    "pmax": "2.27", "psum_fmax": "2.27", "gemm_stationary_fmax": "2.27", "gemm_moving_fmax": "2.27",
    "bn_stats_fmax": "2.27", "psum_min_align": "2.27", "sbuf_min_align": "2.27",
    "total_available_sbuf_size": "2.27", "sbuf_size_bytes": "2.30", "sbuf_fmax": "2.30",
    "sbuf_fmax_bytes": "2.30", "psum_bank_fmax": "2.30", "psum_bank_fmax_bytes": "2.30",
    "psum_num_banks": "2.31",
}  # fmt: skip
"""Members of ``nl.tile_size`` and the release they came with (release notes)."""

TENSOR_ATTRIBUTES = {
    "view": "2.28", "ndim": "2.29", "size": "2.29", "strides": "2.29", "offset": "2.29",
    "permute": "2.31", "broadcast": "2.31", "expand_dim": "2.31", "squeeze_dim": "2.31",
    "reshape_dim": "2.31", "flatten_dims": "2.31", "rearrange": "2.31", "slice": "2.31",
    "select": "2.31", "vector_select": "2.31", "indirect": "2.31", "reinterpret_cast": "2.31",
    "is_contiguous": "2.31", "is_indirect": "2.31", "get_pattern": "2.30",
}  # fmt: skip
"""Attributes and methods of tensors that came after 2.27."""

VALUED = frozenset({"get_nc_version", "get_nc_sub_version", "register_alloc", "VirtualRegister"})
"""Of nki.isa, what returns a value that a kernel may use; instructions return nothing."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a documented function."""

    name: str
    required: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """What one release documents of a name.

    Attributes:
        parameters: of a function, else None.
        members: of a class or enumeration, else None.
    """

    parameters: tuple[Parameter, ...] | None = None
    members: frozenset[str] | None = None

    @property
    def open_ended(self) -> bool:
        """Whether the function takes any keyword (``**kwargs``)."""
        return any(p.name.startswith("**") for p in self.parameters or ())


def _parse(text: str) -> Entry | None:
    if text == "gone":
        return None
    if text.startswith("{"):
        return Entry(members=frozenset(text[1:-1].split()))
    if text.startswith("("):
        names = [part for part in text[1:-1].split(", ") if part]
        return Entry(
            tuple(
                Parameter(n.rstrip("="), not (n.endswith("=") or n.startswith("*"))) for n in names
            )
        )
    return Entry()


@cache
def table() -> dict[str, dict[str, Entry]]:
    """Entries by full name (``nki.isa.memset``) and version."""
    found = _documented()
    for name in _TOKENS_BEFORE_DOCUMENTED:
        for version in between(before="2.29"):
            found[f"nki.language.{name}"].setdefault(version, Entry())
    found["nki.language.no_reorder"].setdefault("2.28", Entry(()))
    for version in VERSIONS:
        sizes = frozenset(n for n, since in _TILE_SIZES.items() if version in between(since))
        found["nki.language.tile_size"][version] = Entry(members=sizes)
    for member in (n for n in list(found) if n.startswith("nki.isa.")):
        entries = {v: e for v, e in found[member].items() if e.members is not None}
        if entries:
            found[member.replace("nki.isa.", "nki.isa.constants.")] = entries
    return found


def _documented() -> dict[str, dict[str, Entry]]:
    found: dict[str, dict[str, Entry]] = {}
    for line in TABLE.read_text().splitlines():
        if line.startswith("#") or not line:
            continue
        name, since, text = line.split(" ", 2)
        entry = _parse(text)
        versions = found.setdefault(name, {})
        for version in between(since):
            if entry is None:
                versions.pop(version, None)
            else:
                versions[version] = entry
    return found


MODULES = ("nki", "nki.isa", "nki.isa.constants", "nki.language", "nki.collectives", "nki.typing")
"""The vendor's modules, whose names the table lists (except those of nki.typing)."""


def is_vendor(dotted: str) -> bool:
    """Whether a full name belongs to the vendor's package."""
    return dotted == "nki" or dotted.startswith("nki.")
