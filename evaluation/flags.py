"""The flags of main.py as one table: name, kind, default, meaning, and where each applies.

The parser, its help, the refusals of what a backend cannot do, and the tests all come from these
rows. The names, defaults and meanings are those of the challenge's driver (aws-neuron/nki-moe,
main.py), except where a row says otherwise; flags of our own come without a counterpart there.
This module imports nothing heavy, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_PROMPTS_FILE = ROOT / "config" / "prompts.txt"
DEFAULT_RECORD = ROOT / "results" / "benchmark_results.json"

SIMULATOR, NEURON_SIMULATOR, NEURON = BACKENDS = ("simulator", "neuron-simulator", "neuron")
GENERATE, VALIDATE, EVALUATE_SINGLE, EVALUATE_ALL = MODES = (
    "generate", "validate", "evaluate_single", "evaluate_all",
)  # fmt: skip
COMPILE, DOCTOR, EXPLAIN = "compile_only", "doctor", "explain"
EVALUATE = (EVALUATE_SINGLE, EVALUATE_ALL)
JUDGE = (VALIDATE, *EVALUATE)
EVERY_MODE = (*MODES, COMPILE, DOCTOR)

ToleranceMap = dict[str, tuple[float, float]]


def closest(word: str, known: Iterable[str]) -> str:
    """Return '; did you mean ...?' for the most similar known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


@dataclass(frozen=True)
class Whole:
    """Parser of a whole number with bounds."""

    least: int
    most: int | None = None

    def __call__(self, text: str) -> int:
        upper = f" <= {self.most}" if self.most is not None else ""
        expected = f"a whole number >= {self.least}{' and' if upper else ''}{upper}"
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {expected}, received {text!r}") from None
        if value < self.least or (self.most is not None and value > self.most):
            raise argparse.ArgumentTypeError(f"expected {expected}, received {text}")
        return value


@dataclass(frozen=True)
class Number:
    """Parser of a number that is not negative; zero and infinity can be excluded."""

    positive: bool = False
    finite: bool = True

    def __call__(self, text: str) -> float:
        expected = "a number > 0" if self.positive else "a number >= 0"
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {expected}, received {text!r}") from None
        refused = value <= 0 if self.positive else not value >= 0
        if refused or math.isnan(value) or (self.finite and math.isinf(value)):
            raise argparse.ArgumentTypeError(f"expected {expected}, received {text}")
        return value


@dataclass(frozen=True)
class OneOf:
    """Parser of one word of a list, which names the nearest when the word is not in it."""

    names: tuple[str, ...]

    def __call__(self, text: str) -> str:
        if text not in self.names:
            listing = ", ".join(self.names)
            raise argparse.ArgumentTypeError(
                f"{text!r} is not one of {listing}{closest(text, self.names)}"
            )
        return text


def switch(text: str) -> bool:
    """Read the value of a switch: True or False in any case, nothing else."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"a switch takes True or False, received {text!r}")
    return text.lower() == "true"


def path(text: str) -> Path:
    """Read a path; `~` is the user's home folder also where the shell leaves it alone."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text).expanduser()


def text(value: str) -> str:
    """Read a text that is not empty; Python keeps bytes that are no UTF-8 as lone surrogates."""
    if not value.strip():
        raise argparse.ArgumentTypeError("the text is empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise argparse.ArgumentTypeError("the text is not UTF-8")
    return value


def indices(value: str) -> int | str:
    """Read one of the indices of `--capture-indices`: 'auto' or a whole number."""
    return "auto" if value.lower() == "auto" else Whole(0)(value)


def tolerance_map(source: str) -> ToleranceMap:
    """Read a tolerance map: top-k -> (absolute, relative), as JSON or as a Python literal.

    The challenge writes `{None: (1e-5, 0.05), 1000: (1e-5, 0.03)}`; None (all logits) is "all" here
    and in JSON, where keys are text. Returns the map with text keys.
    """
    parsed = _literal(source)
    if not isinstance(parsed, dict) or not parsed:
        raise argparse.ArgumentTypeError(
            'expected a map such as {"all": [1e-5, 0.05], "5": [1e-5, 0.03]}, received ' + source
        )
    result: ToleranceMap = {}
    for key, pair in parsed.items():
        name = _top_k(key)
        if name in result:
            raise argparse.ArgumentTypeError(f"top-k {name} is given twice in {source}")
        result[name] = _tolerance_pair(name, pair)
    return result


def _literal(source: str) -> Any:
    try:
        return json.loads(source)
    except ValueError:
        pass
    try:
        return ast.literal_eval(source)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise argparse.ArgumentTypeError(
            f"neither JSON nor a Python literal: {source!r}; quote the map for the shell"
        ) from None


def _top_k(key: Any) -> str:
    if key is None or key in ("all", "None"):
        return "all"
    digits = str(key)
    if isinstance(key, bool) or not digits.isdecimal() or int(digits) < 1:
        raise argparse.ArgumentTypeError(
            f"a key is None, 'all' or a top-k of 1 or more, received {key!r}"
        )
    return str(int(digits))


def _tolerance_pair(name: str, pair: Any) -> tuple[float, float]:
    numbers = list(pair) if isinstance(pair, (list, tuple)) else []
    real = [isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers]
    if (
        len(numbers) != 2
        or not all(real)
        or not (0 <= numbers[0] < math.inf and 0 < numbers[1] < math.inf)
    ):
        raise argparse.ArgumentTypeError(
            f"top-k {name} takes two numbers, absolute >= 0 and relative > 0, received {pair!r}"
        )
    return float(numbers[0]), float(numbers[1])


_SAME: Any = object()  # no default of its own on a device


@dataclass(frozen=True)
class Flag:
    """One flag.

    `default` holds on the CPU backends, `device_default` on `neuron` where it differs. `several` is
    "repeat" for a flag that may be repeated, "list" for one that takes several values. A flag of a
    device group is refused on the CPU backends, with the group's reason or its own (`why`), unless
    it has its default or one of `cpu_values`. `shown` replaces the default in the help.
    """

    name: str
    kind: Callable[[str], Any]
    default: Any
    meaning: str
    dest: str = ""
    several: str = ""
    device_default: Any = _SAME
    cpu_values: tuple[Any, ...] = ()
    modes: tuple[str, ...] = EVERY_MODE
    why: str = ""
    shown: str = ""

    @property
    def key(self) -> str:
        """Name of the value: as in the challenge's driver, which names NeuronConfig's keywords."""
        return self.dest or self.name.lstrip("-").replace("-", "_")

    def default_on(self, backend: str) -> Any:
        """Return the default of the flag on a backend."""
        own = backend == NEURON and self.device_default is not _SAME
        return self.device_default if own else self.default


@dataclass(frozen=True)
class Group:
    """Flags under one heading of the help; `device` tells that they apply to `neuron` alone."""

    title: str
    flags: tuple[Flag, ...]
    device: bool = False
    why: str = ""


_DTYPES = OneOf(("float32", "bfloat16", "float16"))
_COUNT, _INDEX, _POSITIVE = Whole(1), Whole(0), Number(positive=True)

TASK = Group("what to do", (
    Flag("--mode", OneOf((*MODES, DOCTOR)), None,
         "generate: print the continuation of prompts; validate: compare the NKI model with the "
         "baseline; evaluate_single: measure one prompt; evaluate_all: measure every prompt of "
         "the prompts file; doctor: look at what a run needs and this machine lacks"),
    Flag("--compile-only", switch, False, "compile into --compiled-model-path and stop; instead of "
         "--mode"),
    Flag("--enable-nki", switch, False, "the model whose layers are carried out by the NKI "
         "kernels; without it the baseline"),
    Flag("--kernel-path", OneOf(("fused", "layered", "rows")), "fused", "kernels of the NKI model; "
         "fused: a decode step is one launch for all layers and one for the LM head; layered: five "
         "launches per layer; rows: small kernels around torch's matrix products"),
    Flag("--explain", text, None, "show where a number comes from: its path in the record, as "
         "summary.accuracy, or its digits in the report, as 5.17; instead of --mode",
         modes=(EXPLAIN,)),
    Flag("--record", path, DEFAULT_RECORD, "results file that --explain reads", modes=(EXPLAIN,),
         shown="results/benchmark_results.json beside main.py"),
    Flag("--qwen", text, "qwen", "the model by the name of its module: qwen is the baseline, "
         "qwen_with_nki the same as --enable-nki"),
))  # fmt: skip

PLACE = Group("where it runs", (
    Flag("--backend", OneOf(BACKENDS), SIMULATOR, "simulator: any CPU, the kernels run in nki_sim; "
         "neuron-simulator: the Neuron SDK's own CPU simulator; neuron: a Trainium device"),
    Flag("--platform-target", OneOf(("trn2", "trn3")), "trn2", "the Trainium generation to "
         "compile for"),
    Flag("--torch-dtype", _DTYPES, "float32", "type of weights and activations",
         device_default="bfloat16"),
    Flag("--seed", Whole(0, 2**32 - 1), 0, "seed of every random generator"),
    Flag("--time-limit-s", _COUNT, None, "end the run, as failed, when it takes longer",
         shown="no limit"),
))  # fmt: skip

MODEL = Group("model", (
    Flag("--model-path", path, None, "folder of the Hugging Face checkpoint; required"),
    Flag("--model-manifest", path, None, "hashes of the checkpoint's files, as the workflow writes "
         "them to results/model_manifest.json; a checkpoint that differs is refused"),
    Flag("--compiled-model-path", path, None, "folder of the compiled artefact; required. "
         "Without --skip-compile it is compiled, unless it already is what would be made"),
    Flag("--skip-compile", switch, False, "use the artefact that --compiled-model-path holds; it "
         "is refused when it was made from another model, variant, kernel, setting or platform"),
))  # fmt: skip

PROMPTS = Group("prompts and lengths", (
    Flag("--prompt", text, None, "a prompt; may be repeated for generate and validate", "prompts",
         "repeat", modes=(GENERATE, VALIDATE, EVALUATE_SINGLE)),
    Flag("--prompt-id", _INDEX, None, "position of one prompt in the prompts file, from 0",
         modes=(GENERATE, VALIDATE, EVALUATE_SINGLE)),
    Flag("--prompts-file", path, DEFAULT_PROMPTS_FILE, "prompts separated by blank lines, as the "
         "organisers' prompts.txt", shown="config/prompts.txt beside main.py"),
    Flag("--seq-len", _COUNT, 640, "tokens of prompt and output together that the model has "
         "room for"),
    Flag("--max-length", _COUNT, None, "another name for --seq-len in the challenge's driver, "
         "which makes them equal; must not differ from it"),
    Flag("--max-new-tokens", _COUNT, None, "tokens to generate",
         shown="what --seq-len leaves after the prompt"),
    Flag("--batch-size", _COUNT, 1, "sequences at once; CPU backends: 1, prompts take turns"),
))  # fmt: skip

ACCURACY = Group("accuracy", (
    Flag("--divergence-difference-tol", Number(), 0.001, "where the two models choose different "
         "tokens: largest accepted gap between the logits of both", modes=JUDGE),
    Flag("--tol-map", tolerance_map, None, "accepted errors as {top-k: (absolute, relative)}, in "
         "JSON or as a Python literal; None or \"all\" means all logits", modes=JUDGE,
         shown="{None: (1e-5, .05), 1000: (1e-5, .03), 50: (1e-5, .03), 5: (1e-5, .03)}"),
    Flag("--num-tokens-to-check", _COUNT, None, "compare the first so many tokens alone",
         modes=JUDGE, shown="all"),
    Flag("--baseline-path", path, None, "folder of the baseline's evaluation files, to compare "
         "with instead of running the baseline first", modes=EVALUATE),
))  # fmt: skip

MEASURING = Group("measuring and records", (
    Flag("--warmup-runs", _INDEX, 1, "runs before the timed ones", modes=(*EVALUATE, DOCTOR)),
    Flag("--timed-runs", _COUNT, 3, "timed runs; every sample is kept",
         modes=(*EVALUATE, DOCTOR),
         device_default=20),
    Flag("--output", path, None, "evaluate_single: evaluation file to write; evaluate_all: folder "
         "that gets <variant>/prompt_<id>.json", modes=EVALUATE),
    Flag("--resume", switch, False, "keep the evaluation files in --output that are valid and come "
         "from the same inputs", modes=(EVALUATE_ALL,)),
    Flag("--base-latency", _POSITIVE, None, "latency of the baseline that a score divides by, "
         "in ms", modes=(EVALUATE_SINGLE,), shown="of the prompt in config/baselines.yaml"),
    Flag("--base-throughput", _POSITIVE, None, "throughput of the baseline that a score "
         "divides by, in tok/s", modes=(EVALUATE_SINGLE,),
         shown="of the prompt in config/baselines.yaml"),
    Flag("--team-id", text, None, "team that the results are shown for"),
    Flag("--member-id", text, None, "member of the team that the results are shown for"),
    Flag("--benchmark", switch, True, "measure; the evaluate modes always do", modes=EVALUATE),
))  # fmt: skip

MESSAGES = Group("messages", (
    Flag("--verbose", switch, False, "show the traceback of a failure",
         modes=(*EVERY_MODE, EXPLAIN)),
    Flag("--quiet", switch, False, "no progress; results and errors alone",
         modes=(*EVERY_MODE, EXPLAIN)),
))  # fmt: skip

COMMON = (TASK, PLACE, MODEL, PROMPTS, ACCURACY, MEASURING, MESSAGES)

DEVICE = (
    Group("sampling", (
        Flag("--on-device-sampling", switch, False, "sample on the device instead of the host"),
        Flag("--do-sample", switch, False, "sample at random in generate; measuring and accuracy "
             "are greedy in any case", device_default=True),
        Flag("--top-k", _INDEX, 20, "sample from the k likeliest tokens", cpu_values=(1,)),
        Flag("--top-p", Number(), 0.95, "sample from the likeliest tokens of this probability"),
        Flag("--temperature", Number(), 0.6, "divides the logits before sampling"),
        Flag("--global-topk", _COUNT, None, "candidates kept over all ranks by the sampler"),
        Flag("--dynamic", switch, False, "sampling parameters given with each request"),
        Flag("--pad-token-id", _INDEX, 2, "token that pads a prompt to its bucket",
             why="prompts are not padded here"),
        Flag("--top-k-kernel-enabled", switch, False, "the vendor's top-k kernel in the sampler"),
    ), True, "decoding is greedy on the host"),
    Group("lengths and outputs of the compiled graphs", (
        Flag("--padding-side", OneOf(("left", "right")), None, "side at which prompts are padded"),
        Flag("--allow-input-truncation", switch, False, "cut prompts that are too long",
             why="a prompt that does not fit is an error here, never cut"),
        Flag("--n-active-tokens", _COUNT, None, "tokens of one forward pass"),
        Flag("--n-positions", _COUNT, None, "positions of the KV cache"),
        Flag("--max-context-length", _COUNT, None, "longest prompt"),
        Flag("--rpl-reduce-dtype", _DTYPES, None, "type of the reduction of row-parallel layers"),
        Flag("--attention-dtype", _DTYPES, None, "type of the attention"),
        Flag("--output-logits", switch, False, "return the logits beside the tokens",
             cpu_values=(True,)),
        Flag("--vocab-parallel", switch, False, "shard the embedding along the vocabulary"),
        Flag("--layer-boundary-markers", switch, False, "mark the layers in the graph"),
    ), True, "there are no compiled graphs"),
    Group("attention", (
        Flag("--fused-qkv", switch, False, "one matrix for the three projections"),
        Flag("--sequence-parallel-enabled", switch, False, "shard activations along the sequence"),
        Flag("--weight-gather-seq-len-threshold", _COUNT, None, "length from which weights are "
             "gathered"),
        Flag("--flash-decoding-enabled", switch, False, "shard the KV cache along the sequence"),
    ), True, "the attention of the CPU model is fixed"),
    Group("continuous batching", (
        Flag("--ctx-batch-size", _COUNT, None, "sequences of one prefill"),
        Flag("--tkg-batch-size", _COUNT, None, "sequences of one decode step"),
        Flag("--max-batch-size", _COUNT, None, "most sequences at once"),
        Flag("--is-continuous-batching", switch, False, "sequences join and leave the batch"),
    ), True, "one sequence runs at a time"),
    Group("KV cache", (
        Flag("--kv-cache-batch-size", _COUNT, None, "sequences that the cache holds"),
        Flag("--kv-cache-padding-size", _INDEX, None, "further sequences of the cache for padding"),
        Flag("--disable-kv-cache-tiling", switch, False, "keep the cache untiled"),
        Flag("--k-cache-transposed", switch, False, "keep the keys transposed"),
    ), True, "the KV cache of the CPU model is fixed"),
    Group("bucketing", (
        Flag("--enable-bucketing", switch, False, "graphs of several lengths; off means one",
             device_default=True),
        Flag("--bucket-n-active-tokens", switch, False, "buckets over the active tokens"),
        Flag("--context-encoding-buckets", _COUNT, None, "lengths of the prefill", several="list"),
        Flag("--prefix-buckets", _COUNT, None, "lengths of the cached prefix", several="list"),
        Flag("--token-generation-buckets", _COUNT, None, "lengths of the decode",
             several="list"),
    ), True, "there are no buckets: each prompt runs at its own length"),
    Group("quantisation", (
        Flag("--quantized", switch, False, "use quantised weights"),
        Flag("--quantized-checkpoints-path", path, None, "folder of the quantised weights"),
        Flag("--quantization-type", OneOf((
            "per_tensor_symmetric", "per_channel_symmetric", "blockwise_symmetric",
            "expert_wise_per_channel_symmetric")), None, "what shares one scale"),
        Flag("--kv-cache-quant", switch, False, "quantise the KV cache"),
        Flag("--quantization-dtype", text, None, "type of the quantised weights"),
        Flag("--modules-to-not-convert-file", path, None, "JSON file of the modules to leave"),
    ), True, "weights are not quantised"),
    Group("mixture of experts", (
        Flag("--capacity-factor", _POSITIVE, None, "room of an expert; without it no token is "
             "dropped"),
        Flag("--early-expert-affinity-modulation", switch, False, "weigh the inputs of experts, "
             "not their outputs"),
        Flag("--disable-normalize-top-k-affinities", switch, False, "leave the weights of the "
             "chosen experts as they are"),
        Flag("--fused-shared-experts", switch, False, "one matrix for the shared experts"),
        Flag("--router-act-fn", text, None, "activation of the router"),
        Flag("--router-dtype", text, None, "type of the router"),
    ), True, "routing follows the checkpoint's configuration"),
    Group("speculation", (
        Flag("--draft-model-path", path, None, "folder of the draft model"),
        Flag("--draft-model-tp-degree", _COUNT, None, "ranks of the draft model"),
        Flag("--compiled-draft-model-path", path, None, "folder of the compiled draft model"),
        Flag("--enable-fused-speculation", switch, False, "draft and target in one graph"),
        Flag("--enable-eagle-speculation", switch, False, "draft with EAGLE"),
        Flag("--enable-eagle-draft-input-norm", switch, False, "norm the input of EAGLE's draft"),
        Flag("--is-eagle3", switch, False, "draft with EAGLE 3"),
        Flag("--speculation-length", _COUNT, None, "tokens drafted at once"),
        Flag("--spec-batch-size", _COUNT, None, "sequences of one speculation"),
        Flag("--is-medusa", switch, False, "draft with Medusa heads"),
        Flag("--medusa-speculation-length", _COUNT, None, "tokens drafted by Medusa"),
        Flag("--num-medusa-heads", _COUNT, None, "Medusa heads"),
        Flag("--medusa-tree-json", path, None, "JSON file of the Medusa tree"),
        Flag("--token-tree-json", path, None, "JSON file of the token tree"),
    ), True, "decoding is not speculative"),
    Group("parallelism", (
        Flag("--tp-degree", _COUNT, 4, "tensor-parallel ranks"),
        Flag("--cp-degree", _COUNT, None, "context-parallel ranks"),
        Flag("--mlp-cp-degree", _COUNT, None, "context-parallel ranks of the MLP"),
        Flag("--attention-dp-degree", _COUNT, None, "data-parallel ranks of the attention"),
        Flag("--pp-degree", _COUNT, None, "pipeline-parallel ranks"),
        Flag("--ep-degree", _COUNT, None, "expert-parallel ranks"),
        Flag("--moe-tp-degree", _COUNT, 1, "tensor-parallel ranks of the experts"),
        Flag("--moe-ep-degree", _COUNT, 1, "expert-parallel ranks of the experts"),
        Flag("--world-size", _COUNT, None, "ranks in all"),
        Flag("--start_rank_id", _INDEX, None, "first rank of this host"),
        Flag("--local_ranks_size", _COUNT, None, "ranks of this host"),
        Flag("--enable-torch-dist", switch, False, "start ranks through torch.distributed"),
        Flag("--save-sharded-checkpoint", switch, False, "keep the sharded weights beside the "
             "compiled model"),
        Flag("--skip-sharding", switch, False, "use the sharded weights that are there"),
    ), True, "the model runs in one process, unsharded"),
    Group("paged KV cache, chunked prefill and prefixes", (
        Flag("--enable-block-kv-layout", switch, False, "page the KV cache", "is_block_kv_layout"),
        Flag("--pa-num-blocks", _COUNT, None, "pages of the cache"),
        Flag("--pa-block-size", _COUNT, None, "tokens of a page"),
        Flag("--enable-chunked-prefill", switch, False, "prefill in chunks", "is_chunked_prefill"),
        Flag("--enable-prefix-caching", switch, False, "reuse cached prefixes",
             "is_prefix_caching"),
        Flag("--max-num-seqs", _COUNT, None, "sequences of one chunk"),
        Flag("--windowed-context-encoding-size", _COUNT, None, "prefill in windows of this size"),
        Flag("--async-mode", switch, False, "prepare a step while the last one runs"),
    ), True, "the CPU model prefills a prompt at once into one contiguous cache"),
    Group("LoRA", (
        Flag("--enable-lora", switch, False, "serve adapters"),
        Flag("--enable-dynamic-multi-lora", switch, False, "swap adapters at run time"),
        Flag("--max-loras", _COUNT, 1, "adapters on the device"),
        Flag("--max-lora-rank", _COUNT, 16, "largest rank of an adapter"),
        Flag("--target-modules", text, None, "modules that adapters change", several="list"),
        Flag("--max-cpu-loras", _COUNT, 1, "adapters on the host"),
        Flag("--lora-ckpt-path", text, None, "adapter as name:folder", "lora_ckpt_paths", "repeat"),
        Flag("--lora-ckpt-path-cpu", text, None, "adapter on the host as name:folder",
             "lora_ckpt_paths_cpu", "repeat"),
        Flag("--lora-ckpt-json", path, None, "JSON file of the adapters"),
        Flag("--adapter-id", text, None, "adapter of a prompt", "adapter_ids", "repeat"),
    ), True, "adapters are not supported"),
    Group("the vendor's kernels", (
        Flag("--qkv-kernel-enabled", switch, False, "kernel of the QKV projection"),
        Flag("--qkv-nki-kernel-enabled", switch, False, "NKI kernel of the QKV projection"),
        Flag("--qkv-cte-nki-kernel-fuse-rope", switch, False, "RoPE inside the prefill's QKV"),
        Flag("--qkv-kernel-nbsd-layout", switch, False, "outputs of QKV by head first"),
        Flag("--qkv-kernel-fuse-residual-add", switch, False, "residual sum inside QKV"),
        Flag("--attn-kernel-enabled", switch, False, "kernel of the prefill's attention"),
        Flag("--attn-tkg-nki-kernel-enabled", switch, False, "NKI kernel of decode attention"),
        Flag("--attn-tkg-builtin-kernel-enabled", switch, False, "compiler's decode attention"),
        Flag("--attn-block-tkg-nki-kernel-enabled", switch, False, "whole attention block of the "
             "decode as one kernel"),
        Flag("--attn-block-tkg-nki-kernel-cascaded-attention", switch, False, "the same with "
             "cascaded attention"),
        Flag("--attn-block-tkg-nki-kernel-cache-update", switch, False, "the same with the update "
             "of the cache"),
        Flag("--attn-block-cte-nki-kernel-enabled", switch, False, "whole attention block of the "
             "prefill as one kernel"),
        Flag("--strided-context-parallel-kernel-enabled", switch, False, "kernel of strided "
             "context parallelism"),
        Flag("--mlp-kernel-enabled", switch, False, "kernel of the MLP"),
        Flag("--mlp-tkg-nki-kernel-enabled", switch, False, "NKI kernel of the decode's MLP"),
        Flag("--mlp-kernel-fuse-residual-add", switch, False, "residual sum inside the MLP"),
        Flag("--quantized-mlp-kernel-enabled", switch, False, "kernel of the quantised MLP"),
        Flag("--fused-rmsnorm-skip-gamma", switch, False, "norms folded into the next weights"),
        Flag("--rmsnorm-quantize-kernel-enabled", switch, False, "kernel that norms and "
             "quantises"),
        Flag("--activation-quantization-type", OneOf(("dynamic",)), None, "quantise activations"),
        Flag("--quantize-clamp-bound", Number(finite=False), math.inf, "largest magnitude that is "
             "quantised"),
    ), True, "the vendor's kernels need the device; ours are switched by --enable-nki"),
    Group("cores and compiler", (
        Flag("--logical-neuron-cores", _COUNT, None, "physical cores per logical one (old name)"),
        Flag("--logical-nc-config", _COUNT, None, "physical cores per logical one"),
        Flag("--cc-pipeline-tiling-factor", _COUNT, 2, "tiles of a collective in flight"),
        Flag("--enable-spill-reload-dge", switch, False, "spill by generated descriptors"),
        Flag("--scratchpad-page-size", _COUNT, None, "page of the scratchpad, in MiB"),
        Flag("--cast-type", OneOf(("config", "as-declared")), "config", "type of loaded weights"),
        Flag("--compile-dry-run", switch, False, "trace without compiling"),
        Flag("--hlo-debug", switch, False, "keep source lines in the graph"),
    ), True, "the Neuron compiler is not used"),
    Group("running and debugging on the device", (
        Flag("--on-cpu", switch, False, "NxD Inference's own CPU mode", why="the simulator "
             "backend is the way to run on a CPU"),
        Flag("--skip-warmup", switch, False, "load the model without a warm-up pass",
             why="--warmup-runs 0 leaves out the warm-up of a measurement"),
        Flag("--benchmark-report-path", path, Path("benchmark_report.json"), "the challenge's "
             "report", why="--output names the evaluation file, which holds every sample"),
        Flag("--capture-indices", indices, None, "steps whose inputs are kept; auto or numbers",
             several="list"),
        Flag("--input-capture-save-dir", path, None, "folder of the captured inputs"),
        Flag("--apply-seq-ids-mask", switch, False, "mask unused sequences"),
        Flag("--input-start-offsets", _INDEX, None, "first position of each prompt",
             several="list"),
        Flag("--enable-output-completion-notifications", switch, False, "signal each output"),
    ), True, "it acts on the device alone"),
)  # fmt: skip

GROUPS = COMMON + DEVICE
FLAGS = {flag.key: flag for group in GROUPS for flag in group.flags}
