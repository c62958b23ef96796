"""What the report derives from the record: sums, extremes and ratios of recorded values."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from report.fields import Fields

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

REREAD_LIMIT = 1.05
"""Bytes read per byte of input above which the report says that a kernel reads its input again."""

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


def accuracy_of(prompt: Fields) -> Fields:
    """Return the accuracy report of a prompt's NKI run."""
    accuracy: Fields = prompt["nki"]["accuracy"]
    return accuracy


def top_k_keys(record: Fields) -> list[str]:
    """Return the tolerance map's keys: the whole vocabulary, then from many tokens to few."""
    keys = {
        str(entry["top_k"])
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
        "prefill_launches": sum(kernel["launches"]["prefill"] for kernel in kernels),
        "decode_launches": sum(kernel["launches"]["decode_step"] for kernel in kernels),
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
        "divergences": sum(len(accuracy_of(prompt)["divergences"]) for prompt in prompts),
        "largest_logit_error": max(accuracy_of(p)["max_abs_logit_error"] for p in prompts),
        "smallest_gap": min(accuracy_of(p)["smallest_baseline_gap"] for p in prompts),
        "prefill_expected": sum(kernel["launches"]["prefill_expected"] for kernel in kernels),
        "decode_expected": sum(kernel["launches"]["decode_step_expected"] for kernel in kernels),
        **_work_facts(kernels),
        **(_device_facts(prompts) if record["backend"] == "neuron" else {}),
    }


def _work_facts(kernels: list[Fields]) -> dict[str, Any]:
    """Return extremes of traffic, intensity and granularity over the kernels."""
    of = {kernel["kernel"]: work(kernel["cost"]) for kernel in kernels}
    by_grain = sorted(kernels, key=lambda kernel: of[kernel["kernel"]].bytes_per_instruction)
    return {
        "work": of,
        "heaviest": max(kernels, key=lambda kernel: of[kernel["kernel"]].total_bytes),
        "reread_limit": REREAD_LIMIT,
        "rereading": [
            kernel for kernel in kernels if of[kernel["kernel"]].read_factor > REREAD_LIMIT
        ],
        "without_macs": [kernel for kernel in kernels if kernel["cost"]["macs"] == 0],
        "highest_intensity": max(one.macs_per_byte for one in of.values()),
        "finest": by_grain[0],
        "finest_bytes": of[by_grain[0]["kernel"]].bytes_per_instruction,
        "coarsest": by_grain[-1],
        "coarsest_bytes": of[by_grain[-1]["kernel"]].bytes_per_instruction,
        "sbuf_peak": max(kernel["cost"]["sbuf_peak_bytes_per_partition"] for kernel in kernels),
        "cost_dtypes": sorted({kernel["cost"]["dtype"] for kernel in kernels}),
    }


def _device_facts(prompts: list[Fields]) -> dict[str, Any]:
    """Return what only a run on a device can tell: which prompts gained and which lost."""
    changes = [(prompt["improvement_percent"], prompt) for prompt in prompts]
    return {
        "gains": [prompt for change, prompt in changes if change > 0],
        "losses": [prompt for change, prompt in changes if change < 0],
    }
