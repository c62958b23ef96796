"""Evaluate one prompt with one variant of the model: times, tokens, accuracy, kernel launches."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from evaluation.accuracy import (
    CHALLENGE_DIVERGENCE_TOLERANCE,
    CHALLENGE_TOLERANCES,
    AccuracyReport,
    compare_logits,
)
from evaluation.benchmark import Progress, Samples, run_benchmark
from evaluation.drift import drift
from evaluation.errors import EvaluationError
from evaluation.files import (
    FileError,
    read_json,
    sha256_bytes,
    sha256_file,
    write_atomically,
    write_json,
)
from evaluation.launches import Launches, check_runs, counted, step_account
from evaluation.models import DeviceModel, Graphs, Model, SimulatedModel, Timed
from evaluation.prompts import Prompt
from evaluation.provenance import provenance, variant_sources

if TYPE_CHECKING:
    import torch

    from model.generation import Generation

SCHEMA_VERSION = 1
SIMULATION_TIME = (
    "wall time of the CPU run; the kernels are simulated, so this is no Trainium latency"
)
CPU_TIME = "wall time of the CPU run, without kernels; this is no Trainium latency"
DEVICE_TIME = (
    "wall time of a generation on the Trainium, the host's work between the graphs included"
)


_DECISIVE_SETTINGS = ("sequence_length", "max_new_tokens", "dtype", "seed")
"""Settings that decide the tokens, beside the model and the prompt."""


@dataclass(frozen=True)
class Settings:
    """What is run. Lengths are in tokens.

    `sequence_length` bounds prompt and output together; without `max_new_tokens` the output fills
    it, as in the challenge.
    """

    sequence_length: int = 640
    max_new_tokens: int | None = None
    warmup_runs: int = 1
    timed_runs: int = 3
    dtype: str = "float32"
    seed: int = 0

    def new_tokens(self, prompt_tokens: int) -> int:
        """Return how many tokens are generated after a prompt of `prompt_tokens`."""
        return self.max_new_tokens or self.sequence_length - prompt_tokens


@dataclass(frozen=True)
class Subject:
    """What is evaluated: the variant, where it runs, its files and their identities.

    `kernel_path` says by which kernels the variant "nki" runs (`model.plan`).
    """

    variant: str
    backend: str
    platform_target: str
    model_path: Path
    model_manifest_sha256: str
    artefact_key: str
    kernel_path: str = "fused"


@dataclass(frozen=True)
class Rule:
    """The accuracy rule's tolerances (see `evaluation.accuracy`) and how many tokens it checks."""

    tolerance_map: Mapping[str, tuple[float, float]] = field(
        default_factory=lambda: CHALLENGE_TOLERANCES
    )
    divergence_difference_tolerance: float = CHALLENGE_DIVERGENCE_TOLERANCE
    tokens_to_check: int | None = None


@dataclass(frozen=True)
class Reference:
    """What the baseline gave for a prompt: tokens [N], logits [N, vocabulary]; their file's hash.

    states: [2, L, H], hidden states after each layer (`models.SimulatedModel.hidden_states`); None
        of a device, which cannot tell them.
    """

    tokens: NDArray[np.int64]
    logits: NDArray[np.float32]
    states: NDArray[np.float32] | None
    sha256: str


def load_model(
    variant: str, model_path: Path, dtype: str, kernel_path: str = "fused"
) -> SimulatedModel:
    """Load the model of a variant from a checkpoint; `kernel_path` concerns the variant "nki"."""
    if variant == "nki":
        from model import qwen_cpu

        return qwen_cpu.load(model_path, dtype, kernel_path)
    from model import baseline

    return baseline.load(model_path, dtype)


def evaluate_prompt(
    model: Model,
    prompt: Prompt,
    subject: Subject,
    settings: Settings,
    output: Path,
    baseline_directory: Path | None = None,
    rule: Rule | None = None,
    progress: Progress = lambda line: None,
    graphs: Graphs | None = None,
) -> dict[str, Any]:
    """Run the benchmark of one prompt, write the evaluation to `output` and return it.

    With `graphs`, those of a device, `model` is a DeviceModel, and launches and fallbacks come
    from them. The baseline leaves its tokens and logits beside `output` as an .npz file. The
    variant "nki" is compared with the one in `baseline_directory`, which must be of the same
    model, prompt and settings. An accuracy that fails the rule is recorded, not raised.

    Raises EvaluationError for a prompt that is too long, a foreign or missing baseline, runs that
    disagree with each other, and launches that differ from what the architecture demands.
    """
    if settings.max_new_tokens is not None and settings.max_new_tokens < 2:
        raise EvaluationError("max_new_tokens must be at least 2: one decode step is measured")
    is_nki = subject.variant == "nki"
    reference = None
    if is_nki:
        if baseline_directory is None:
            raise EvaluationError("the nki variant is compared with a baseline; none was given")
        reference = read_reference(baseline_directory, prompt, subject, settings)
    tokenizer = _tokenizer(subject.model_path)
    input_ids = encode(tokenizer, prompt, settings)
    if graphs is None:
        run = _measure(model, input_ids, settings, is_nki, progress)
    else:
        run = _measure_device(cast(DeviceModel, model), input_ids, settings, progress)
    evaluation = _describe(prompt, subject, settings, len(input_ids), run)
    evaluation["text"] = tokenizer.decode(run.observed.tokens.tolist(), skip_special_tokens=True)
    if reference is not None:
        report = _accuracy(model, input_ids, run.observed, reference, rule or Rule(), progress)
        evaluation["accuracy"] = report.to_dict()
        if graphs is None:
            simulated = cast(SimulatedModel, model)
            _account_for(evaluation, simulated, input_ids, run, reference, subject, settings)
    if graphs is not None:
        evaluation |= graphs.describe(len(input_ids), len(run.observed.tokens))
    evaluation["inputs"] = _inputs(subject, reference)
    evaluation["provenance"] = provenance()
    if not is_nki:
        # The logits come first: an evaluation that exists always has its logits beside it.
        logits_file = output.with_suffix(".npz")
        states = None
        if graphs is None:
            states = _states(cast(SimulatedModel, model), input_ids, int(run.observed.tokens[0]))
        evaluation["logits"] = {
            "file": logits_file.name,
            "sha256": _write_logits(logits_file, run.observed, states),
        }
    write_json(output, evaluation)
    return evaluation


def _account_for(
    evaluation: dict[str, Any],
    model: SimulatedModel,
    input_ids: torch.Tensor,
    run: _Run,
    reference: Reference,
    subject: Subject,
    settings: Settings,
) -> None:
    """Add what the kernels of a simulated model did: launches, coverage, drift, fallbacks."""
    if reference.states is None:
        raise EvaluationError("the baseline was evaluated on a device; evaluate it here first")
    token = int(reference.tokens[0])
    config = read_json(subject.model_path / "config.json")
    account = step_account(model, input_ids, token, config, subject.kernel_path, settings.dtype)
    check_runs(run.launches, len(run.observed.tokens) - 1, account)
    evaluation["kernel_path"] = subject.kernel_path
    evaluation["launches"] = account.launches()
    evaluation["coverage"] = account.coverage(len(input_ids))
    states = _states(model, input_ids, token)
    evaluation["drift"] = drift(reference.states, states, settings.dtype)
    evaluation["fallbacks"] = run.fallbacks


def encode(tokenizer: Any, prompt: Prompt, settings: Settings) -> torch.Tensor:
    """Return the prompt's token ids [S]; EvaluationError unless they leave room to generate."""
    import torch

    ids = tokenizer(prompt.text, add_special_tokens=True)["input_ids"]
    room = settings.sequence_length - (settings.max_new_tokens or 2)  # a decode step is measured
    if not 0 < len(ids) <= room:
        raise EvaluationError(
            f"prompt {prompt.id} ({prompt.name}) has {len(ids)} tokens; with sequence_length "
            f"{settings.sequence_length} and max_new_tokens {settings.max_new_tokens} it may have "
            f"1 to {room}. Shorten it, or change these settings"
        )
    return torch.tensor(ids, dtype=torch.int64)


def read_reference(
    directory: Path, prompt: Prompt, subject: Subject, settings: Settings
) -> Reference:
    """Return the baseline's tokens and logits for a prompt.

    Raises EvaluationError, naming the file and what differs, unless the baseline was made with the
    same model, prompt and settings that decide the tokens.
    """
    path = directory / f"prompt_{prompt.id}.json"
    rerun = f"evaluate the baseline of prompt {prompt.id} again"
    try:
        evaluation = read_json(path)
        recorded = {
            "variant": evaluation["variant"],
            "prompt": evaluation["prompt"]["sha256"],
            "model": evaluation["inputs"]["model_manifest_sha256"],
            **{name: evaluation["settings"][name] for name in _DECISIVE_SETTINGS},
        }
        logits_file = directory / evaluation["logits"]["file"]
        sha256 = evaluation["logits"]["sha256"]
    except FileError as error:
        raise EvaluationError(f"no usable baseline: {error}; {rerun}") from error
    except (KeyError, TypeError) as error:
        raise EvaluationError(f"{path}: not an evaluation: {error!r}; {rerun}") from error
    wanted = {
        "variant": "baseline",
        "prompt": prompt.sha256,
        "model": subject.model_manifest_sha256,
        **{name: getattr(settings, name) for name in _DECISIVE_SETTINGS},
    }
    for name, value in wanted.items():
        if recorded[name] != value:
            raise EvaluationError(
                f"{path}: a baseline of another {name}: {recorded[name]} there, "
                f"{value} here; {rerun}"
            )
    return _read_logits(logits_file, sha256, rerun)


@dataclass(frozen=True)
class _Run:
    """The timed runs of one prompt: times, results, kernel launches of each run, fallbacks.

    `observed` is the generation whose logits were kept: the first timed one, or on a device one
    more.
    """

    samples: Samples
    results: Sequence[Timed]
    observed: Generation
    launches: list[Launches] = field(default_factory=list)
    fallbacks: list[dict[str, str]] = field(default_factory=list)


def _measure(
    model: Model, input_ids: torch.Tensor, settings: Settings, is_nki: bool, progress: Progress
) -> _Run:
    counts: list[Launches] = []
    new_tokens = settings.new_tokens(len(input_ids))

    def generate() -> Generation:
        if not is_nki:
            return model.generate(input_ids, new_tokens)
        result, launched = counted(lambda: model.generate(input_ids, new_tokens))
        counts.append(launched)
        return result

    if is_nki:
        _forget_fallbacks()
    samples, results = run_benchmark(generate, settings.warmup_runs, settings.timed_runs, progress)
    _require_equal_tokens(results, results[0])
    timed_counts = counts[settings.warmup_runs :]
    return _Run(samples, results, results[0], timed_counts, _fallbacks() if is_nki else [])


def _measure_device(
    model: DeviceModel, input_ids: torch.Tensor, settings: Settings, progress: Progress
) -> _Run:
    new_tokens = settings.new_tokens(len(input_ids))
    samples, results = run_benchmark(
        lambda: model.generate_timed(input_ids, new_tokens),
        settings.warmup_runs,
        settings.timed_runs,
        progress,
    )
    progress("one more run, for its logits")
    observed = model.generate(input_ids, new_tokens)
    _require_equal_tokens(results, observed)
    return _Run(samples, results, observed)


def _require_equal_tokens(results: Sequence[Timed], first: Timed) -> None:
    for number, result in enumerate(results, start=1):
        if not np.array_equal(result.tokens, first.tokens):
            raise EvaluationError(
                f"timed run {number} chose other tokens than another run; greedy runs must agree"
            )


def _forget_fallbacks() -> None:
    from model import dispatch

    dispatch.forget_fallbacks()


def _fallbacks() -> list[dict[str, str]]:
    from model import dispatch

    return [{"kernel": kernel, "reason": reason} for kernel, reason in dispatch.fallbacks()]


def _accuracy(
    model: Model,
    input_ids: torch.Tensor,
    own: Generation,
    reference: Reference,
    rule: Rule,
    progress: Progress,
) -> AccuracyReport:
    """Compare with the baseline on the baseline's tokens.

    Where the free run chose the baseline's tokens throughout, it was fed the same ones and its
    logits are the teacher-forced ones; only otherwise is another run needed.
    """
    logits = own.logits
    if not np.array_equal(own.tokens, reference.tokens):
        import torch

        progress("another run on the baseline's tokens, since the free run chose others")
        forced = torch.from_numpy(reference.tokens)
        logits = model.generate(input_ids, len(reference.tokens), forced_tokens=forced).logits
    checked = slice(rule.tokens_to_check)
    return compare_logits(
        reference.tokens[checked],
        reference.logits[checked],
        logits[checked],
        rule.tolerance_map,
        rule.divergence_difference_tolerance,
    )


def _describe(
    prompt: Prompt, subject: Subject, settings: Settings, input_tokens: int, run: _Run
) -> dict[str, Any]:
    """Return the part of the evaluation that both variants share."""
    return {
        "schema_version": SCHEMA_VERSION,
        "variant": subject.variant,
        "backend": subject.backend,
        "platform_target": subject.platform_target,
        "evaluated_at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "prompt": {
            "id": prompt.id,
            "name": prompt.name,
            "sha256": prompt.sha256,
            "input_tokens": input_tokens,
            "output_tokens": len(run.observed.tokens),
        },
        "settings": asdict(settings),
        "host_time": {
            "basis": "measured",
            "what": _what_is_timed(subject),
            "end_to_end_s": list(run.samples.end_to_end_s),
            "context_encoding_s": [result.prefill_s for result in run.results],
            "token_generation_s": [list(result.decode_s) for result in run.results],
        },
        "tokens": run.observed.tokens.tolist(),
    }


def _what_is_timed(subject: Subject) -> str:
    if subject.backend == "neuron":
        return DEVICE_TIME
    return SIMULATION_TIME if subject.variant == "nki" else CPU_TIME


def _inputs(subject: Subject, reference: Reference | None) -> dict[str, Any]:
    inputs: dict[str, Any] = {
        "model_manifest_sha256": subject.model_manifest_sha256,
        "artefact_key": subject.artefact_key,
        **variant_sources(subject.variant, subject.backend),
    }
    if reference is not None:
        inputs["baseline_logits_sha256"] = reference.sha256
    return inputs


def _states(model: SimulatedModel, input_ids: torch.Tensor, token: int) -> NDArray[np.float32]:
    states: NDArray[np.float32] = model.hidden_states(input_ids, token).numpy()
    return states


def _write_logits(path: Path, generation: Generation, states: NDArray[np.float32] | None) -> str:
    arrays: dict[str, Any] = {
        "tokens": np.asarray(generation.tokens, np.int64),
        "logits": np.asarray(generation.logits, np.float32),
    }
    if states is not None:
        arrays["states"] = states
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    data = stream.getvalue()
    write_atomically(path, data)
    return sha256_bytes(data)


def _read_logits(path: Path, sha256: str, rerun: str) -> Reference:
    try:
        if sha256_file(path) != sha256:
            raise EvaluationError(f"{path}: not the logits of the evaluation beside it; {rerun}")
        with np.load(path, allow_pickle=False) as arrays:
            states = arrays.get("states")
            return Reference(arrays["tokens"], arrays["logits"], states, sha256)
    except (OSError, ValueError, KeyError) as error:
        raise EvaluationError(f"{path}: cannot be read: {error}; {rerun}") from error


def _tokenizer(model_path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_path, local_files_only=True)
