"""The command line: every trap of the challenge's driver, every refusal, every default."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from evaluation.commandline import FLAGS, Options, parse
from evaluation.flags import DEFAULT_PROMPTS_FILE, DEVICE, ROOT, switch

PATHS = ["--model-path", "m", "--compiled-model-path", "c"]

# Flags of the challenge's driver with the default that it gives to the Neuron backend, by the name
# under which the value reaches NeuronConfig. None: not set.
CHALLENGE_DEFAULTS = {
    "qwen": "qwen", "on_device_sampling": False, "do_sample": True, "top_k": 20, "top_p": 0.95,
    "temperature": 0.6, "pad_token_id": 2, "dynamic": False, "enable_bucketing": True,
    "tp_degree": 4, "moe_tp_degree": 1, "moe_ep_degree": 1, "max_loras": 1, "max_lora_rank": 16,
    "max_cpu_loras": 1, "quantize_clamp_bound": float("inf"), "cc_pipeline_tiling_factor": 2,
    "cast_type": "config", "fused_qkv": False, "async_mode": False, "is_block_kv_layout": False,
    "is_chunked_prefill": False, "is_prefix_caching": False, "output_logits": False,
}  # fmt: skip
# The flags of the challenge's driver, without the leading hyphens.
CHALLENGE_FLAGS = """
mode qwen enable-nki base-latency base-throughput team-id member-id model-path compiled-model-path
benchmark divergence-difference-tol tol-map num-tokens-to-check prompt top-k top-p temperature
global-topk do-sample dynamic pad-token-id top-k-kernel-enabled torch-dtype batch-size padding-side
allow-input-truncation seq-len n-active-tokens n-positions max-context-length max-new-tokens
max-length rpl-reduce-dtype attention-dtype output-logits vocab-parallel layer-boundary-markers
platform-target fused-qkv sequence-parallel-enabled weight-gather-seq-len-threshold
flash-decoding-enabled ctx-batch-size tkg-batch-size max-batch-size is-continuous-batching
kv-cache-batch-size kv-cache-padding-size disable-kv-cache-tiling on-device-sampling
enable-bucketing bucket-n-active-tokens context-encoding-buckets prefix-buckets
token-generation-buckets quantized quantized-checkpoints-path quantization-type kv-cache-quant
quantization-dtype modules-to-not-convert-file capacity-factor early-expert-affinity-modulation
disable-normalize-top-k-affinities fused-shared-experts router-act-fn router-dtype draft-model-path
draft-model-tp-degree compiled-draft-model-path enable-fused-speculation enable-eagle-speculation
enable-eagle-draft-input-norm speculation-length spec-batch-size is-medusa
medusa-speculation-length num-medusa-heads medusa-tree-json token-tree-json tp-degree cp-degree
mlp-cp-degree attention-dp-degree pp-degree ep-degree moe-tp-degree moe-ep-degree world-size
start_rank_id local_ranks_size enable-torch-dist save-sharded-checkpoint skip-sharding
enable-block-kv-layout pa-num-blocks pa-block-size enable-chunked-prefill enable-prefix-caching
max-num-seqs async-mode windowed-context-encoding-size enable-lora enable-dynamic-multi-lora
max-loras max-lora-rank target-modules max-cpu-loras lora-ckpt-path lora-ckpt-path-cpu
lora-ckpt-json adapter-id qkv-kernel-enabled qkv-nki-kernel-enabled qkv-cte-nki-kernel-fuse-rope
qkv-kernel-nbsd-layout attn-kernel-enabled strided-context-parallel-kernel-enabled
mlp-kernel-enabled mlp-tkg-nki-kernel-enabled quantized-mlp-kernel-enabled
fused-rmsnorm-skip-gamma activation-quantization-type rmsnorm-quantize-kernel-enabled
quantize-clamp-bound mlp-kernel-fuse-residual-add qkv-kernel-fuse-residual-add
attn-tkg-nki-kernel-enabled attn-tkg-builtin-kernel-enabled attn-block-tkg-nki-kernel-enabled
attn-block-tkg-nki-kernel-cascaded-attention attn-block-tkg-nki-kernel-cache-update
attn-block-cte-nki-kernel-enabled k-cache-transposed is-eagle3 logical-neuron-cores
logical-nc-config cc-pipeline-tiling-factor enable-spill-reload-dge scratchpad-page-size on-cpu
benchmark-report-path capture-indices input-capture-save-dir cast-type skip-warmup skip-compile
compile-only compile-dry-run hlo-debug apply-seq-ids-mask input-start-offsets
enable-output-completion-notifications
"""


def options(*arguments: str, mode: str = "generate") -> Options:
    return parse(["--mode", mode, *PATHS, *arguments])


def refusal(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Return what a refused command line prints on stderr."""
    with pytest.raises(SystemExit) as stopped:
        parse(arguments)
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert printed.out == ""
    return printed.err


def test_every_flag_of_the_challenge_is_known() -> None:
    names = {flag.name for flag in FLAGS.values()}
    assert {f"--{name}" for name in CHALLENGE_FLAGS.split()} <= names


def test_the_device_gets_the_challenges_defaults() -> None:
    asked = options("--backend", "neuron")
    device = asked.device
    assert {key: device[key] for key in CHALLENGE_DEFAULTS} == CHALLENGE_DEFAULTS
    assert "global_topk" not in device  # not set: NeuronConfig has a default of its own
    assert (asked.torch_dtype, asked.timed_runs, asked.max_new_tokens) == ("bfloat16", 20, None)


def test_defaults_of_the_simulator() -> None:
    asked = options()
    assert asked == Options(
        mode="generate", enable_nki=False, backend="simulator", platform_target="trn2",
        torch_dtype="float32", kernel_path="fused", seed=0, time_limit_s=None, model_path=Path("m"),
        model_manifest=None,
        compiled_model_path=Path("c"), skip_compile=False, prompts=None, prompt_id=None,
        prompts_file=DEFAULT_PROMPTS_FILE,
        seq_len=640, max_new_tokens=None, batch_size=1, divergence_difference_tol=0.001,
        tol_map=None, num_tokens_to_check=None, baseline_path=None, warmup_runs=1, timed_runs=3,
        output=None, resume=False, base_latency=None, base_throughput=None, team_id=None,
        member_id=None, verbose=False, quiet=False, device={},
    )  # fmt: skip
    assert asked.variant == "baseline"


def test_options_are_named_as_the_flags() -> None:
    assert {f.name for f in fields(Options)} - {"device"} <= set(FLAGS)


@pytest.mark.parametrize("written, value", [
    (["--skip-compile"], True), (["--skip-compile", "True"], True),
    (["--skip-compile", "False"], False), (["--skip-compile=false"], False),
    (["--no-skip-compile"], False), ([], False),
    (["--skip-compile", "True", "--skip-compile"], True),
])  # fmt: skip
def test_skip_compile_means_what_it_says(written: list[str], value: bool) -> None:
    assert options(*written).skip_compile is value


@pytest.mark.parametrize("written, value", [
    (["--enable-bucketing", "False"], False), (["--no-enable-bucketing"], False),
    (["--enable-bucketing"], True), ([], True),
])  # fmt: skip
def test_bucketing_can_be_turned_off(written: list[str], value: bool) -> None:
    assert options("--backend", "neuron", *written).device["enable_bucketing"] is value


def test_do_sample_false_is_false() -> None:
    assert options("--backend", "neuron", "--do-sample", "False").device["do_sample"] is False
    assert options("--do-sample", "False").variant == "baseline"  # what the simulator does anyway


def test_every_switch_takes_all_four_forms() -> None:
    for flag in FLAGS.values():
        if flag.kind is not switch or flag.key in {"compile_only", "resume", "benchmark"}:
            continue
        for written in ([flag.name], [flag.name, "true"]):
            parse(["--mode", "generate", *PATHS, "--backend", "neuron", *written])
        for written in ([flag.name, "False"], [flag.name.replace("--", "--no-", 1)]):
            parse(["--mode", "generate", *PATHS, "--backend", "neuron", *written])


@pytest.mark.parametrize("written", [
    "{None: (1e-5, 0.05), 1000: (1e-5, 0.03)}", '{"all": [1e-5, 0.05], "1000": [1e-5, 0.03]}',
    "{'all': (0.00001, 0.05), 1000: [1e-5, .03]}",
])  # fmt: skip
def test_the_tolerance_map_is_used(written: str) -> None:
    asked = options("--tol-map", written, mode="validate")
    assert asked.tol_map == {"all": (1e-5, 0.05), "1000": (1e-5, 0.03)}


@pytest.mark.parametrize("written, says", [
    ("0.03", "expected a map"), ("{}", "expected a map"), ("{None: 0.05}", "top-k all takes two"),
    ("{5: (1e-5, -1)}", "absolute >= 0 and relative > 0"), ("{5: (1e-5, 0)}", "relative > 0"),
    ("{0: (1, 1)}", "a key is None"), ("{'five': (1, 1)}", "received 'five'"),
    ("{True: (1, 1)}", "a key is None"), ("{None: (1, 1), 'all': (2, 2)}", "given twice"),
    ("{5: (1e-5, nan)}", "neither JSON nor"), ("__import__('os')", "neither JSON nor"),
    ('{"5": [1, NaN]}', "relative > 0"), ('{"5": [true, 1]}', "takes two numbers"),
])  # fmt: skip
def test_tolerance_maps_that_are_refused(
    written: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal(capsys, ["--mode", "validate", *PATHS, "--tol-map", written])
    assert "--tol-map: " in message and says in message


REFUSED = {
    "mode with a hyphen": ("--mode evaluate-single", "did you mean evaluate_single?"),
    "unknown mode": ("--mode surgeon", "is not one of generate, validate, evaluate_single"),
    "no mode": ("", "--mode is missing"),
    "unknown flag": ("--mode generate --enable-nkl", "did you mean --enable-nki?"),
    "underscores": ("--mode generate --enable_nki", "did you mean --enable-nki?"),
    "value in an unknown flag": ("--mode generate --model-pth=x", "did you mean --model-path?"),
    "abbreviation": ("--mode generate --verb", "unknown flag --verb"),
    "abbreviated value": ("--mode generate --max-new 3", "unknown flag --max-new"),
    "stray word": ("--mode generate hello", "unexpected argument 'hello'"),
    "switch with a word": ("--mode generate --skip-compile yes", "takes True or False"),
    "negated switch with a value": ("--mode generate --no-enable-nki True", "takes no value"),
    "switch on and off": ("--mode generate --skip-compile --no-skip-compile", "keep one"),
    "flag given twice": ("--mode generate --seed 1 --seed 2", "given as 1 and as 2"),
    "nki and qwen": ("--mode generate --enable-nki --qwen qwen", "name two models"),
    "nki off and qwen_with_nki": (
        "--mode generate --enable-nki False --qwen qwen_with_nki", "drop one of them"),
    "qwen of another team": ("--mode generate --qwen qwen_optimized", "has two models"),
    "validate without nki": ("--mode validate --no-enable-nki", "drop --no-enable-nki"),
    "prompt and id": ("--mode generate --prompt x --prompt-id 0", "both choose the prompt"),
    "prompt and file": ("--mode generate --prompt x --prompts-file f", "is not read"),
    "empty prompt": ("--mode generate --prompt=", "the text is empty"),
    "negative id": ("--mode generate --prompt-id -1", "a whole number >= 0, received -1"),
    "skip and compile": ("--compile-only --skip-compile", "leave nothing to do"),
    "compile and mode": ("--compile-only --mode generate", "contradict each other"),
    "all with a prompt": ("--mode evaluate_all --prompt x", "no effect in --mode evaluate_all"),
    "all with an id": ("--mode evaluate_all --prompt-id 1", "no effect in --mode evaluate_all"),
    "single without a prompt": ("--mode evaluate_single", "needs one prompt"),
    "single with two": ("--mode evaluate_single --prompt a --prompt b", "received 2"),
    "batch": ("--mode generate --batch-size 2", "runs one sequence at a time"),
    "no batch": ("--mode generate --batch-size 0", "a whole number >= 1"),
    "half precision": ("--mode generate --torch-dtype float16", "float32 and bfloat16"),
    "other type": ("--mode generate --torch-dtype float8", "is not one of float32"),
    "other platform": ("--mode generate --platform-target trn1", "is not one of trn2, trn3"),
    "other backend": ("--mode generate --backend neurn", "did you mean neuron?"),
    "max length": ("--mode generate --max-length 512", "differs from --seq-len 640"),
    "no room": ("--mode generate --max-new-tokens 640", "leaves no room for a prompt"),
    "checks too many": (
        "--mode validate --max-new-tokens 32 --num-tokens-to-check 33", "the 32 tokens generated"),
    "checks more than the sequence": (
        "--mode validate --seq-len 64 --num-tokens-to-check 64", "the 63 tokens generated"),
    "no timed run": (
        "--mode evaluate_all --timed-runs 0", "--timed-runs: expected a whole number >= 1"),
    "half a baseline": (
        "--mode evaluate_single --prompt-id 0 --base-latency 9", "give both or none"),
    "zero latency": (
        "--mode evaluate_single --base-latency 0 --base-throughput 1", "a number > 0"),
    "baseline for all": (
        "--mode evaluate_all --base-latency 9 --base-throughput 9", "only in evaluate_single"),
    "infinite tolerance": (
        "--mode validate --divergence-difference-tol inf", "a number >= 0, received inf"),
    "resume without folder": ("--mode evaluate_all --resume", "--resume needs --output"),
    "resume of one": ("--mode evaluate_single --prompt-id 0 --output o --resume", "no effect"),
    "output of generate": ("--mode generate --output o", "no effect in --mode generate"),
    "output of compiling": ("--compile-only --output o", "no effect in --compile-only"),
    "no measuring": ("--mode evaluate_all --no-benchmark", "always measure"),
    "loud and quiet": ("--mode generate --verbose --quiet", "contradict each other"),
    "ranks": ("--mode generate --tp-degree 8", "one process, unsharded"),
    "sampling": ("--mode generate --do-sample", "greedy on the host"),
    "fused qkv": ("--mode generate --fused-qkv", "applies to --backend neuron"),
    "buckets": ("--mode generate --token-generation-buckets 128 640", "there are no buckets"),
    "cpu of NxD": ("--mode generate --on-cpu", "the simulator backend is the way"),
    "challenge's report": ("--mode evaluate_all --benchmark-report-path r", "--output names"),
    "on the SDK's simulator": (
        "--mode generate --backend neuron-simulator --fused-qkv", "on --backend neuron-simulator"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_and_why(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    written, says = REFUSED[case]
    message = refusal(capsys, [*written.split(), *PATHS])
    assert says in message
    assert "nothing was run" in message and "Traceback" not in message


def test_a_missing_model_comes_with_the_command_that_makes_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    message = refusal(capsys, ["--mode", "generate", "--enable-nki"])
    assert "--model-path is missing" in message and "./run results/model_manifest.json" in message
    assert "--compiled-model-path is missing" in message and "results/compiled/nki" in message


def test_all_problems_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, ["--mode", "generate", "--tp-degree", "2", "--batch-size", "3"])
    assert len(message.strip().splitlines()) == 5  # two paths, ranks, batch, last line


@pytest.mark.parametrize("group", DEVICE, ids=lambda group: group.title)
def test_device_flags_are_accepted_there_and_at_their_default(group) -> None:
    for flag in group.flags:
        assert group.why or flag.why
        if flag.default is not None:
            options(flag.name, str(flag.default))
            options("--backend", "neuron", flag.name, str(flag.default_on("neuron")))


def test_values_for_the_device() -> None:
    device = options(
        "--backend", "neuron", "--tp-degree", "8", "--context-encoding-buckets", "128", "640",
        "--capture-indices", "auto", "--lora-ckpt-path", "a:b", "--lora-ckpt-path", "c:d",
        "--enable-prefix-caching", "--qwen", "qwen_optimized",
    ).device  # fmt: skip
    assert (device["tp_degree"], device["context_encoding_buckets"]) == (8, [128, 640])
    assert (device["capture_indices"], device["lora_ckpt_paths"]) == (["auto"], ["a:b", "c:d"])
    assert (device["is_prefix_caching"], device["qwen"]) == (True, "qwen_optimized")


def test_the_module_name_chooses_the_model() -> None:
    assert options("--qwen", "qwen_with_nki").variant == "nki"
    assert options("--qwen", "qwen_with_nki", "--enable-nki").variant == "nki"
    assert options("--qwen", "qwen").variant == "baseline"
    assert options(mode="validate").variant == "nki"


def test_what_the_workflow_calls() -> None:
    compiled = parse([
        "--compile-only", "--enable-nki", *PATHS, "--backend", "simulator", "--platform-target",
        "trn2", "--torch-dtype", "float32",
    ])  # fmt: skip
    assert (compiled.mode, compiled.variant) == ("compile_only", "nki")
    for variant in ([], ["--enable-nki"]):
        evaluated = options(
            "--prompt-id", "3", "--prompts-file", "p.txt", *variant, "--skip-compile",
            "--max-new-tokens", "32", "--timed-runs", "3", "--warmup-runs", "1", "--seed", "0",
            "--baseline-path", "results/evaluations/baseline", "--output", "o.json",
            mode="evaluate_single",
        )  # fmt: skip
        assert (evaluated.prompt_id, evaluated.skip_compile) == (3, True)


def test_prompts_keep_their_order_and_may_look_odd() -> None:
    asked = options("--prompt", "-5 + 3?", "--prompt", "100% {x} é\n", "--prompt=--mode")
    assert asked.prompts == ["-5 + 3?", "100% {x} é\n", "--mode"]


def test_a_prompt_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--mode", "generate", *PATHS, "--prompt", "caf\udce9"]
    assert "--prompt: the text is not UTF-8" in refusal(capsys, arguments)


def test_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    asked = parse(["--mode", "generate", "--model-path=~/m", "--compiled-model-path", "c"])
    assert asked.model_path == tmp_path / "m"
    monkeypatch.chdir(tmp_path)
    assert options().prompts_file == ROOT / "config" / "prompts.txt"


def test_the_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    for flag in FLAGS.values():
        name = flag.name.replace("--", "--[no-]", 1) if flag.kind is switch else flag.name
        assert re.search(rf"^  {re.escape(name)}(\s|$)", shown, re.MULTILINE), name


def test_parsing_imports_nothing_heavy() -> None:
    program = (
        "import sys; from evaluation.commandline import parse\n"
        f"parse(['--mode', 'generate', *{PATHS!r}])\n"
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
