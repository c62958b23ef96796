"""Which parameters of kernels were tuned, to which values, and in which steps.

A tuned parameter is a keyword of the kernel that changes no result, only when things happen. Its
default is what the sweep of `tuning` finds fastest, or there is a reason here why not. Data alone:
importing this imports no `nki`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Value = int | str
Settings = Mapping[str, Value]


@dataclass(frozen=True)
class Parameter:
    """One keyword of one kernel.

    Attributes:
        default: the chosen value, which is the keyword's default.
        others: the values it was chosen from.
        idea: what it decides, and why that should matter on hardware.
    """

    name: str
    default: Value
    others: tuple[Value, ...]
    idea: str


@dataclass(frozen=True)
class Stage:
    """A step of a ladder: what changes against the step before it, and the idea behind that."""

    name: str
    change: Settings
    idea: str


@dataclass(frozen=True)
class Tuned:
    """The tuned parameters of a kernel, and the ladder from a plain schedule to the chosen one.

    Attributes:
        kernel: as models launch it; one of `specs.SPECS`, or ``decoder_stack_ranks``, whose results
            are those of ``decoder_stack``.
        ladder: cumulative, the first step with a value for every parameter, the last with all
            defaults.
        slower: platform -> why the default is kept there although another value is faster.
    """

    kernel: str
    parameters: tuple[Parameter, ...]
    ladder: tuple[Stage, ...] = ()
    slower: Mapping[str, str] = field(default_factory=dict)

    @property
    def defaults(self) -> Settings:
        """The chosen value of every parameter."""
        return {one.name: one.default for one in self.parameters}


@dataclass(frozen=True)
class Variant:
    """A kernel with certain values, under a name that can be a file's."""

    name: str
    kernel: str
    settings: Settings


DECODER_STACK = Tuned(
    "decoder_stack_ranks",
    (
        Parameter(
            "prefetch",
            "paced",
            ("none", "early"),
            "The next layer's attention weights depend on nothing. Loaded as soon as their place "
            "is free they queue before the experts and the small copies around a collective; "
            "released from GpSimd's queue behind the part to be summed, they move while HBM is "
            "idle.",
        ),
        Parameter(
            "buffers",
            4,
            (1, 2),
            "The addresses of a token's experts are known at once: with a buffer each, all their "
            "loads are under way and HBM never waits for the tensor engine.",
        ),
        Parameter(
            "side_by_side",
            4,
            (1, 2),
            "With all gates and ups loaded and computed first, only the last expert's product with "
            "down is left when the last byte arrives, a third of its work.",
        ),
        Parameter(
            "sums",
            "together",
            ("apart",),
            "A small collective costs its latency, not its bytes: it can sum the two cores' parts "
            "as well, which saves an exchange before it.",
        ),
    ),
    (
        Stage(
            "each load in its turn",
            {"prefetch": "none", "buffers": 1, "side_by_side": 1, "sums": "apart"},
            "one expert at a time, every weight loaded when it is needed",
        ),
        Stage("two buffers", {"buffers": 2}, "an expert comes in while another is computed"),
        Stage("a buffer per expert", {"buffers": 4}, "all of a token's experts are under way"),
        Stage("early weights", {"prefetch": "early"}, "the next layer's weights take free places"),
        Stage("paced weights", {"prefetch": "paced"}, "they move while cores and ranks meet"),
        Stage("gates first", {"side_by_side": 4}, "less work behind the last byte"),
        Stage("one sum", {"sums": "together"}, "ranks and cores are summed by one collective"),
    ),
)

EXPERTS_DECODE = Tuned(
    "experts_decode",
    (
        Parameter("buffers", 4, (1, 2), "as in the decoder's stack"),
        Parameter("side_by_side", 4, (1, 2), "as in the decoder's stack"),
    ),
)

EXPERTS_PREFILL = Tuned(
    "experts_prefill",
    (
        Parameter(
            "buffers",
            2,
            (1, 3),
            "Blocks on their way or in use. More of them hide more of a load's latency; but a "
            "round is as many blocks as there are buffers, and blocks beyond the last are loaded "
            "in vain.",
        ),
    ),
    (
        Stage("one buffer", {"buffers": 1}, "a block is loaded, then computed"),
        Stage("two buffers", {"buffers": 2}, "weights come in while another block is computed"),
    ),
    {
        "trn3": "a third buffer gains half a percent there, loses as much on trn2 and takes 22 KiB "
        "of every partition"
    },
)

LM_HEAD = Tuned(
    "lm_head",
    (
        Parameter(
            "chunk_bytes",
            32768,
            (16384, 65536),
            "Of the vocabulary's weights on a partition per DMA: small ones cost triggers and "
            "short runs, large ones are waited for at the beginning and the end.",
        ),
        Parameter("buffers", 3, (2,), "Chunks on their way or in use."),
    ),
    slower={
        "trn3": "chunks of 16 KiB gain 1 % there, but bring runs of 1 KiB, half of what the DMA "
        "guide recommends at least"
    },
)

OUTPUT_PREFILL = Tuned(
    "output_projection_prefill",
    (
        Parameter(
            "loads",
            8,
            (1, 2, 4),
            "DMAs per part of the weights: the products begin when the first of them is there.",
        ),
    ),
)

TUNED: dict[str, Tuned] = {
    one.kernel: one
    for one in (DECODER_STACK, EXPERTS_DECODE, EXPERTS_PREFILL, LM_HEAD, OUTPUT_PREFILL)
}


def steps(tuned: Tuned) -> list[tuple[Stage, Settings]]:
    """The ladder with the settings of each step."""
    settings: dict[str, Value] = {}
    found: list[tuple[Stage, Settings]] = []
    for stage in tuned.ladder:
        settings = settings | dict(stage.change)
        found.append((stage, settings))
    return found


def name_of(tuned: Tuned, settings: Settings) -> str:
    """The name of a variant: the kernel, and what differs from the defaults."""
    changed = [
        f"{one.name}-{settings[one.name]}"
        for one in tuned.parameters
        if settings[one.name] != one.default
    ]
    return "__".join([tuned.kernel, *(changed or ["default"])])


def ladder_variants() -> list[str]:
    """The names of the variants that the ladders' steps are."""
    return [name_of(t, settings) for t in TUNED.values() for _stage, settings in steps(t)]


def variants() -> dict[str, Variant]:
    """All variants by name: defaults, one value changed at a time, and the ladders' steps."""
    found = {}
    for tuned in TUNED.values():
        wanted = [tuned.defaults]
        for one in tuned.parameters:
            wanted += [{**tuned.defaults, one.name: value} for value in one.others]
        wanted += [settings for _stage, settings in steps(tuned)]
        for settings in wanted:
            name = name_of(tuned, settings)
            found[name] = Variant(name, tuned.kernel, dict(settings))
    return found
