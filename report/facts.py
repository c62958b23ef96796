"""What the report derives from the record: sums, extremes and ratios of recorded values."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from report.device import device_facts
from report.fields import Fields
from report.modelled import modelled_facts
from report.trace import constant, count

BACKENDS = {
    "simulator": "this project's instruction-level simulator",
    "neuron-simulator": "the Neuron SDK's CPU simulator",
    "neuron": "a Trainium device",
}

ENGINES = {
    "tensor": "PE",
    "vector": "VE",
    "scalar": "ACT",
    "gpsimd": "Pool",
    "dma": "DMA",
    "sync": "SP",
}
"""Engines in the order of the report's tables and figures, with the hardware's short names."""

SPARSE_LIMIT = 0.5
"""Bytes read per byte of input below which a kernel leaves most of its input unread."""

REREAD_LIMIT = 1.05
"""Bytes read per byte of input above which the report says that a kernel reads its input again."""

FAMILIES = (
    ("Decoder stack", ("decoder_stack",)),
    ("Decode attention", ("qkv_decode", "attention_decode", "output_projection_decode")),
    ("Decode MoE", ("router_decode", "experts_decode")),
    ("LM head", ("lm_head",)),
    ("Prefill attention", ("qkv_prefill", "attention_prefill", "output_projection_prefill")),
    ("Prefill MoE", ("router_prefill", "experts_prefill")),
    (
        "Rows",
        (
            "rmsnorm", "add_rmsnorm", "rope", "softmax",
            "router_softmax", "top8", "silu", "expert_aggregation",
        ),
    ),
)  # fmt: skip
"""Families of kernels by their names in a record, in the order of the report."""

OPERATIONS = {
    "qkv": "QKV",
    "attention": "attention",
    "output_projection": "output projection",
    "router": "router",
    "experts": "experts",
}
"""A layer's matrix products by their names in a record, with short names for figures."""

PHASES = {"prefill": "prefill", "decode_step": "decode step"}

_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int32": 4, "uint32": 4}


@dataclass(frozen=True)
class KernelWork:
    """One launch of a kernel at the shapes of its record: traffic in bytes, work in MACs."""

    total_bytes: int
    input_bytes: int
    total_instructions: int
    macs: int
    read_bytes: int

    @property
    def macs_per_byte(self) -> float:
        """Arithmetic intensity towards HBM, in multiply-accumulates per byte."""
        return self.macs / self.total_bytes

    @property
    def bytes_per_instruction(self) -> float:
        """HBM traffic over all instructions, DMA transfers among them."""
        return self.total_bytes / self.total_instructions

    @property
    def read_factor(self) -> float:
        """Bytes read over the bytes of the inputs: 1 means that every input crosses once."""
        return self.read_bytes / self.input_bytes


def work(cost: Fields) -> KernelWork:
    """Return the work of one launch from a kernel's counted cost."""
    item_bytes = _ITEM_BYTES[cost["dtype"]]
    return KernelWork(
        total_bytes=cost["hbm_read_bytes"] + cost["hbm_write_bytes"],
        input_bytes=item_bytes * sum(prod(shape) for shape in cost["shapes"].values()),
        total_instructions=sum(cost["instructions"].values()),
        macs=cost["macs"],
        read_bytes=cost["hbm_read_bytes"],
    )


def engines(record: Fields) -> list[str]:
    """Return the engines in use in the order of `ENGINES`, unknown ones after them by name."""
    used = {
        engine
        for kernel in record["nki_kernels_implemented"]
        for engine, count in kernel["cost"]["instructions"].items()
        if count
    }
    known = [engine for engine in ENGINES if engine in used]
    return known + sorted(used - set(known))


def launches_match(kernel: Fields) -> bool:
    """Return whether a kernel's counted launches equal the ones that the architecture asks for."""
    launches = kernel["launches"]
    return bool(
        launches["prefill"] == launches["prefill_expected"]
        and launches["decode_step"] == launches["decode_step_expected"]
    )


def families(kernels: list[Fields]) -> list[tuple[str, list[Fields]]]:
    """Return the kernels by family, those of none at the end as "Others"; no family is empty."""
    by_name = {kernel["kernel"]: kernel for kernel in kernels}
    grouped = []
    for title, names in FAMILIES:
        members = [by_name.pop(name) for name in names if name in by_name]
        grouped += [(title, members)] if members else []
    return [*grouped, ("Others", list(by_name.values()))] if by_name else grouped


def runs(record: Fields) -> list[tuple[str, str, list[Fields]]]:
    """Return (kernel path, dtype, results) of the evaluation and of each check of another path.

    Each result has `drift` and `coverage`. There are none of a device, whose record lacks both.
    """
    if record["backend"] == "neuron":
        return []
    evaluated = [prompt["nki"] for prompt in record["per_prompt_results"]]
    configuration = record["test_configuration"]
    first = (configuration["kernel_path"], configuration["dtype"], evaluated)
    checks = [(c["kernel_path"], c["dtype"], [c]) for c in record["path_checks"]]
    return [first, *checks]


def drift_by_layer(results: list[Fields], phase: str) -> list[float]:
    """Return the largest relative drift of each layer over the results of a run, layer by layer."""
    entries = [e for r in results for e in r["drift"]["layers"] if e["phase"] == phase]
    layers = sorted({entry["layer"] for entry in entries})
    return [max(e["relative"] for e in entries if e["layer"] == layer) for layer in layers]


def prefill_overheads(results: list[Fields]) -> dict[str, list[float]]:
    """Return counted over useful MACs of the prefill, by operation with a kernel of its own."""
    found: dict[str, list[float]] = {}
    for operation in OPERATIONS:
        kernel = f"{operation}_prefill"
        phases = [result["coverage"]["prefill"] for result in results]
        if all(kernel in phase["counted_macs"] for phase in phases):
            found[operation] = [
                phase["counted_macs"][kernel] / phase["useful_macs"][operation] for phase in phases
            ]
    return found


def total_useful_macs(phase: Fields) -> int:
    """Return the MACs that the graph demands in a phase, over all operations."""
    return sum(phase["useful_macs"][operation] for operation in (*OPERATIONS, "lm_head"))


def accuracy_of(prompt: Fields) -> Fields:
    """Return the accuracy report of a prompt's NKI run."""
    accuracy: Fields = prompt["nki"]["accuracy"]
    return accuracy


def top_k_keys(record: Fields) -> list[str]:
    """Return the tolerance map's keys: the whole vocabulary, then from many tokens to few."""
    keys = {
        entry["top_k"]
        for prompt in record["per_prompt_results"]
        for entry in accuracy_of(prompt)["top_k"]
    }
    return sorted(keys, key=lambda key: -float("inf") if key == "all" else -int(key))


def top_k_entry(prompt: Fields, key: str) -> Fields:
    """Return the worst error of `prompt` in the top-k set `key`."""
    accuracy = accuracy_of(prompt)
    for entry in accuracy["top_k"]:
        if entry["top_k"] == key:
            found: Fields = entry
            return found
    raise KeyError(f"{accuracy.key('top_k')} holds no set {key!r}")


def facts(record: Fields) -> dict[str, Any]:
    """Return the values that the template names, each a plain value or a row of the record."""
    kernels, prompts = record["nki_kernels_implemented"], record["per_prompt_results"]
    entries = [(entry, prompt) for prompt in prompts for entry in accuracy_of(prompt)["top_k"]]
    fp32_only = [kernel for kernel in kernels if "bfloat16" not in kernel["validation"]]
    worst_entry, worst_prompt = max(entries, key=lambda pair: pair[0]["fraction_of_tolerance"])
    return {
        "backend_words": BACKENDS[record["backend"]],
        "engines": engines(record),
        "engine_names": ENGINES,
        "matching": [kernel for kernel in kernels if launches_match(kernel)],
        "idle": [
            k for k in kernels if k["launches"]["prefill"] + k["launches"]["decode_step"] == 0
        ],
        "launched": [k for k in kernels if k["launches"]["prefill"] + k["launches"]["decode_step"]],
        "path": found[0][0] if (found := runs(record)) else kernels[0]["launches"]["kernel_path"],
        "operations": OPERATIONS,
        "phases": PHASES,
        "worst_fp32": max(kernels, key=lambda k: k["validation"]["float32"]["max_abs_error"]),
        "worst_bf16": max(
            (kernel for kernel in kernels if kernel not in fp32_only),
            key=lambda k: k["validation"]["bfloat16"]["max_abs_error"],
            default=None,
        ),
        "fp32_only": fp32_only,
        "refusals": sum(kernel["validation"]["refusals"] for kernel in kernels),
        "validated_on": sorted({kernel["validation"]["on"] for kernel in kernels}),
        "top_k_keys": top_k_keys(record),
        "worst_entry": worst_entry,
        "worst_prompt": worst_prompt,
        "failed": [prompt for prompt in prompts if not accuracy_of(prompt)["passed"]],
        "divergences": sum(count(accuracy_of(prompt)["divergences"]) for prompt in prompts),
        "largest_logit_error": max(accuracy_of(p)["max_abs_logit_error"] for p in prompts),
        "smallest_gap": min(accuracy_of(p)["smallest_baseline_gap"] for p in prompts),
        "families": families(kernels),
        **_work_facts(kernels),
        **_run_facts(record),
        **modelled_facts(record),
        **(device_facts(record) if record["backend"] == "neuron" else _host_facts(prompts)),
    }


def _work_facts(kernels: list[Fields]) -> dict[str, Any]:
    """Return extremes of traffic, intensity and granularity over the kernels."""
    of = {kernel["kernel"]: work(kernel["cost"]) for kernel in kernels}
    thin = [k for k in kernels if 0 < of[k["kernel"]].macs_per_byte <= 1]
    by_grain = sorted(kernels, key=lambda kernel: of[kernel["kernel"]].bytes_per_instruction)
    return {
        "work": of,
        "heaviest": max(kernels, key=lambda kernel: of[kernel["kernel"]].total_bytes),
        "reread_limit": constant(REREAD_LIMIT, "REREAD_LIMIT of report/facts.py"),
        "rereading": [
            kernel for kernel in kernels if of[kernel["kernel"]].read_factor > REREAD_LIMIT
        ],
        "sparse": [k for k in kernels if of[k["kernel"]].read_factor < SPARSE_LIMIT],
        "thin": thin,
        "thin_heaviest": max(thin, key=lambda k: of[k["kernel"]].total_bytes, default=None),
        "most_intense": max(kernels, key=lambda k: of[k["kernel"]].macs_per_byte),
        "fullest": max(kernels, key=lambda k: k["cost"]["sbuf_peak_bytes_per_partition"]),
        "without_macs": [kernel for kernel in kernels if kernel["cost"]["macs"] == 0],
        "highest_intensity": max(one.macs_per_byte for one in of.values()),
        "finest": by_grain[0],
        "finest_bytes": of[by_grain[0]["kernel"]].bytes_per_instruction,
        "coarsest": by_grain[-1],
        "coarsest_bytes": of[by_grain[-1]["kernel"]].bytes_per_instruction,
        "sbuf_peak": max(kernel["cost"]["sbuf_peak_bytes_per_partition"] for kernel in kernels),
        "cost_dtypes": sorted({kernel["cost"]["dtype"] for kernel in kernels}),
    }


def _run_facts(record: Fields) -> dict[str, Any]:
    """Return the runs, and the extremes of the evaluation's coverage and drift if there are any."""
    found = runs(record)
    if not found:
        return {"runs": []}
    results = found[0][2]
    phases = {phase: [result["coverage"][phase] for result in results] for phase in PHASES}
    everything = [phase for values in phases.values() for phase in values]
    layers = [entry for result in results for entry in result["drift"]["layers"]]
    overheads = [
        (overhead, operation, prompt)
        for operation, values in prefill_overheads(results).items()
        for overhead, prompt in zip(values, record["per_prompt_results"], strict=True)
    ]
    return {
        "runs": [
            {
                "kernel_path": path,
                "dtype": dtype,
                "results": members,
                "tokens_equal": sum(one["accuracy"]["tokens_equal"] for one in members),
                "tokens_checked": sum(one["accuracy"]["tokens_checked"] for one in members),
                "fraction": max(
                    entry["fraction_of_tolerance"]
                    for one in members
                    for entry in one["accuracy"]["top_k"]
                ),
                "logit_error": max(one["accuracy"]["max_abs_logit_error"] for one in members),
                "passed": all(one["accuracy"]["passed"] for one in members),
                "drift": max(e["relative"] for one in members for e in one["drift"]["layers"]),
                "ulps": max(e["largest_ulps"] for one in members for e in one["drift"]["layers"]),
                "shares": [
                    min(one["coverage"][phase]["useful_share"] for one in members)
                    for phase in PHASES
                ],
            }
            for path, dtype, members in found
        ],
        "least_share": min(phase["useful_share"] for phase in everything),
        "least_share_of_layers": min(phase["useful_share_of_layers"] for phase in everything),
        "worst_drift": max(layers, key=lambda entry: entry["relative"]),
        "expert_overheads": sorted(prefill_overheads(results).get("experts", [])),
        "worst_padding": max(overheads, key=lambda entry: entry[0], default=None),
        **{
            f"{phase}_overheads": sorted(
                one["overhead"] for one in values if one["overhead"] is not None
            )
            for phase, values in phases.items()
        },
    }


def _host_facts(prompts: list[Fields]) -> dict[str, Any]:
    """Return the mean times in seconds that the host needed per prompt, sorted, of either side."""
    return {
        "host_s": {
            side: sorted(prompt[side]["host_time"]["mean_ms"] / 1000 for prompt in prompts)
            for side in ("baseline", "nki")
        }
    }
