"""The modes of main.py: what is run for a command line, what is shown, how it ends.

Results go to stdout, progress and errors to stderr. Exit status: 0 done, 1 failed, 2 refused flags,
130 interrupted.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation import backends, doctor, evaluate
from evaluation.accuracy import AccuracyReport, compare_logits
from evaluation.backends import DriverError, prepare
from evaluation.commandline import DONE, FAILED, INTERRUPTED, Options, explain_absence, parse
from evaluation.console import Progress, accuracy_table, evaluation_table
from evaluation.files import FileError, read_json, sha256_json
from evaluation.flags import (
    COMPILE,
    DOCTOR,
    EVALUATE_ALL,
    EVALUATE_SINGLE,
    EXPLAIN,
    GENERATE,
    NEURON,
    VALIDATE,
)
from evaluation.models import LoadModel, Model
from evaluation.notes import device_notes, fallback_note, simulator_notes
from evaluation.own_process import evaluate_baseline
from evaluation.prompts import Prompt
from evaluation.session import Session, chosen_prompts
from evaluation.timelimit import time_limit

if TYPE_CHECKING:
    import torch

    from model.generation import Generation

_OUR_PARTS = ("evaluation", "kernels", "model", "nki_sim")

Evaluation = dict[str, Any]


def main(
    arguments: Sequence[str] | None = None, load_model: LoadModel = evaluate.load_model
) -> int:
    """Run main.py and return its exit status."""
    try:
        options = parse(arguments)
    except SystemExit as stop:  # of argparse: help, or refused flags
        return int(stop.code or DONE)
    try:
        return _run(options, load_model)
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of stdout has left, as in `main.py ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if _was_interrupted(error):
            _complain("interrupted")
            return INTERRUPTED
        if options.verbose:
            traceback.print_exc()
        _complain(_message(error))
        return FAILED


def _run(options: Options, load_model: LoadModel) -> int:
    if options.mode == DOCTOR:
        return doctor.run(options)
    if options.mode == EXPLAIN:
        return explain(options)
    backend = backends.choose(options, load_model)
    _set_up_process(options)
    backend.set_up_process(options)
    progress = Progress(quiet=options.quiet)
    try:
        with time_limit(options.time_limit_s):
            return MODES[options.mode](Session.open(options, backend, progress))
    finally:
        progress.clear()


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether an error grew out of an interrupt: libraries raise their own from it on import."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _complain(message: str) -> None:
    print(f"main.py: {message}", file=sys.stderr)


def _message(error: Exception) -> str:
    """Return what to tell of a failure; what nobody foresaw is named as that."""
    if isinstance(error, ModuleNotFoundError):
        return explain_absence(error)
    if type(error).__module__.split(".")[0] in _OUR_PARTS:
        return str(error)
    hint = "" if isinstance(error, OSError) else "; --verbose shows where"
    return f"{type(error).__name__}: {error}{hint}"


def _set_up_process(options: Options) -> None:
    """Keep the Hub out, and say what is compiled for."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    # One thread unless the user says otherwise: sums then do not depend on how many cores there
    # are, and the small products of a decode step do not wait for threads to wake up.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ["NEURON_PLATFORM_TARGET_OVERRIDE"] = options.platform_target


def _each(session: Session, prompts: Sequence[Prompt]) -> Iterator[Prompt]:
    """Yield the prompts, telling which of how many."""
    for number, prompt in enumerate(prompts, start=1):
        with session.progress.part(f"prompt {number} of {len(prompts)} ({prompt.name})"):
            yield prompt


def explain(options: Options) -> int:
    """Print where a number of the record comes from."""
    from evaluation.explanation import explain_file  # it alone needs the record's machinery

    assert options.explain is not None
    print(explain_file(options.explain, options.record))
    return DONE


def compile_only(session: Session) -> int:
    """Compile the artefact and tell its key."""
    key = prepare(session)["key"]
    session.show(f"{session.options.compiled_model_path}: {session.options.variant}, key {key}")
    return DONE


def generate(session: Session) -> int:
    """Print each prompt with what the model makes of it."""
    options = session.options
    prompts = chosen_prompts(options)
    encoded = session.encode(prompts)
    prepare(session)
    model = session.load(options.variant)
    for prompt, input_ids in zip(_each(session, prompts), encoded, strict=True):
        count = session.settings.new_tokens(len(input_ids))
        session.progress(f"{count} tokens after {len(input_ids)}")
        tokens = model.generate(input_ids, count).tokens.tolist()
        text = session.tokenizer.decode(
            _until_end(tokens, options.model_path), skip_special_tokens=True
        )
        session.show(f"Prompt: {prompt.text}\nOutput: {text}\n")
    return DONE


def _until_end(tokens: list[int], model_path: Path) -> list[int]:
    """Return the tokens before the first that ends a text, as the checkpoint names them."""
    path = model_path / "generation_config.json"
    named = read_json(path).get("eos_token_id") if path.is_file() else None
    ends = named if isinstance(named, list) else [named]
    stops = [index for index, token in enumerate(tokens) if token in ends]
    return tokens[: stops[0]] if stops else tokens


def validate(session: Session) -> int:
    """Compare the NKI model with the baseline on each prompt; FAILED beyond the tolerances."""
    prompts = chosen_prompts(session.options)
    encoded = session.encode(prompts)
    prepare(session)
    with tempfile.TemporaryDirectory(prefix="validation-") as temporary:
        expected = _expected(session, prompts, encoded, Path(temporary))
        nki = session.load("nki")
        reports = [
            _compare(session, reference, nki, input_ids)
            for _, input_ids, reference in zip(
                _each(session, prompts), encoded, expected, strict=True
            )
        ]
    session.show("\n".join([accuracy_table(prompts, reports), *_fallbacks_of_this_process()]))
    failed = [str(p.id) for p, report in zip(prompts, reports, strict=True) if not report.passed]
    session.show("FAIL" if failed else "PASS")
    return _status(failed)


def _fallbacks_of_this_process() -> Iterator[str]:
    from model import dispatch

    for fallback in dispatch.fallbacks():
        yield fallback_note(fallback.kernel, fallback.reason)


def _expected(
    session: Session, prompts: Sequence[Prompt], encoded: Sequence[torch.Tensor], folder: Path
) -> Iterator[Generation | evaluate.Reference]:
    """Return the baseline's tokens and logits of each prompt, one after the other.

    Where one process holds one model, the baseline has run in another before this returns.
    """
    if session.backend.one_model_per_process:
        evaluate_baseline(session.options, prompts, folder / "baseline")
        subject = session.subject("baseline", "")
        return iter(
            evaluate.read_reference(folder / "baseline", prompt, subject, session.settings)
            for prompt in prompts
        )
    baseline = session.load("baseline")
    return iter(_run_baseline(session, baseline, input_ids) for input_ids in encoded)


def _run_baseline(session: Session, baseline: Model, input_ids: torch.Tensor) -> Generation:
    count = session.options.num_tokens_to_check or session.settings.new_tokens(len(input_ids))
    session.progress(f"baseline, {count} tokens")
    return baseline.generate(input_ids, count)


def _compare(
    session: Session,
    expected: Generation | evaluate.Reference,
    nki: Model,
    input_ids: torch.Tensor,
) -> AccuracyReport:
    """Run the model on the baseline's tokens and apply the accuracy rule."""
    import torch

    count = session.options.num_tokens_to_check or len(expected.tokens)
    session.progress(f"nki, {count} tokens")
    forced = torch.from_numpy(expected.tokens)
    actual = nki.generate(input_ids, count, forced_tokens=forced)
    return compare_logits(
        expected.tokens[:count],
        expected.logits[:count],
        actual.logits,
        session.rule.tolerance_map,
        session.rule.divergence_difference_tolerance,
    )


def _status(failed: Sequence[str]) -> int:
    """Return the exit status of a comparison; complain of the prompts that failed."""
    if not failed:
        return DONE
    _complain(
        f"accuracy not reached for prompt{'s' if len(failed) > 1 else ''} {', '.join(failed)}: the "
        "NKI model's logits are not within the tolerances (--tol-map, --divergence-difference-tol) "
        "of the baseline's"
    )
    return FAILED


def evaluate_prompts(session: Session) -> int:
    """Measure one prompt or all of them; FAILED when accuracy is not reached for any."""
    options = session.options
    prompts = chosen_prompts(options)
    _require_writable(options)
    session.encode(prompts)  # a prompt that does not fit ends the run before any is measured
    compiled = prepare(session)
    with _output_paths(options) as paths:
        evaluations = _evaluate_variants(session, prompts, compiled, paths)
    session.show(evaluation_table(evaluations))
    notes = device_notes if options.backend == NEURON else simulator_notes
    session.show("\n".join(notes(options, prompts, evaluations)))
    failed = [
        str(evaluation["prompt"]["id"])
        for evaluation in evaluations
        if "accuracy" in evaluation and not evaluation["accuracy"]["passed"]
    ]
    return _status(failed)


def _require_writable(options: Options) -> None:
    """Refuse, before any work, an `--output` of the wrong kind."""
    output, single = options.output, options.mode == EVALUATE_SINGLE
    if output is not None and output.exists() and output.is_dir() == single:
        expected, found = ("a file", "a folder") if single else ("a folder", "a file")
        raise DriverError(
            f"--output {output}: --mode {options.mode} writes {expected}, this is {found}; "
            "name another"
        )


@dataclass(frozen=True)
class Paths:
    """Where evaluation files go: of the variant that is asked for, and of its baseline."""

    file: Callable[[Prompt], Path]
    baseline: Path


@contextmanager
def _output_paths(options: Options) -> Iterator[Paths]:
    """Give the paths of the evaluation files; what is not to be kept goes to a passing folder."""
    with ExitStack() as stack:
        folder = options.output if options.mode == EVALUATE_ALL else None
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="evaluation-")))
        single = options.output if options.mode == EVALUATE_SINGLE else None
        own = folder / options.variant
        yield Paths(
            file=lambda prompt: single or own / f"prompt_{prompt.id}.json",
            baseline=options.baseline_path or folder / "baseline",
        )


def _evaluate_variants(
    session: Session, prompts: Sequence[Prompt], compiled: backends.Manifest, paths: Paths
) -> list[Evaluation]:
    """Evaluate the variant that is asked for, and before it the baseline that it needs."""
    options = session.options
    if options.enable_nki and options.baseline_path is None:
        if session.backend.one_model_per_process:
            evaluate_baseline(options, prompts, paths.baseline)
        else:
            # The baseline has no kernels: its artefact is its key and need not be on the disk.
            key = sha256_json(session.backend.inputs(session, "baseline"))
            reference = Candidate(session, session.subject("baseline", key))
            for prompt in _each(session, prompts):
                reference.evaluate(prompt, paths.baseline / f"prompt_{prompt.id}.json")
    subject = session.subject(options.variant, compiled["key"])
    asked = Candidate(session, subject, paths.baseline, compiled)
    return [asked.evaluate(prompt, paths.file(prompt)) for prompt in _each(session, prompts)]


class Candidate:
    """A variant under evaluation; its model is loaded when the first prompt needs it.

    `baseline` is the folder of the evaluations that the variant "nki" is compared with, `compiled`
    the manifest of the artefact that is loaded.
    """

    def __init__(
        self,
        session: Session,
        subject: evaluate.Subject,
        baseline: Path | None = None,
        compiled: backends.Manifest | None = None,
    ) -> None:
        self._session = session
        self._subject = subject
        self._baseline = baseline if subject.variant == "nki" else None
        self._model: Model | None = None
        self._graphs = session.backend.graphs(session, compiled) if compiled is not None else None

    def evaluate(self, prompt: Prompt, output: Path) -> Evaluation:
        """Return the evaluation of a prompt: with `--resume` the one in `output` if it fits."""
        session, variant = self._session, self._subject.variant
        if session.options.resume and (kept := self._kept(prompt, output)):
            session.progress(f"{variant}: {output} is kept")
            return kept
        if self._model is None:
            self._model = session.load(variant)
        with session.progress.part(variant):
            return evaluate.evaluate_prompt(
                self._model,
                prompt,
                self._subject,
                session.settings,
                output,
                self._baseline,
                session.rule,
                session.progress,
                self._graphs,
            )

    def _kept(self, prompt: Prompt, output: Path) -> Evaluation | None:
        """Return the evaluation in `output` if it is of the same inputs, settings and rule.

        The artefact's key stands for the model, the code and the kernels.
        """
        subject, settings = self._subject, self._session.settings
        try:
            found: Evaluation = read_json(output)
            # The folder whose baseline must still be whole: its own, or the one compared with.
            folder = self._baseline or output.parent
            reference = evaluate.read_reference(folder, prompt, subject, settings)
            fits = (
                found["schema_version"] == evaluate.SCHEMA_VERSION
                and found["variant"] == subject.variant
                and found["backend"] == subject.backend
                and found["platform_target"] == subject.platform_target
                and found["prompt"]["sha256"] == prompt.sha256
                and found["settings"] == asdict(settings)
                and found["inputs"]["artefact_key"] == subject.artefact_key
                and found.get("kernel_path", subject.kernel_path) == subject.kernel_path
                and (subject.variant == "baseline" or self._same_rule(found, reference.sha256))
            )
        except (FileError, evaluate.EvaluationError, KeyError, TypeError):
            return None
        return found if fits else None

    def _same_rule(self, found: Evaluation, reference_sha256: str) -> bool:
        """Say whether an evaluation compared with these logits by the same tolerances."""
        accuracy, rule = found["accuracy"], self._session.rule
        tolerances = {
            entry["top_k"]: (entry["absolute_tolerance"], entry["relative_tolerance"])
            for entry in accuracy["top_k"]
        }
        checked = rule.tokens_to_check or found["prompt"]["output_tokens"]
        return bool(
            accuracy["tokens_checked"] == checked
            and found["inputs"]["baseline_logits_sha256"] == reference_sha256
            and tolerances == dict(rule.tolerance_map)
            and accuracy["divergence_tolerance"] == rule.divergence_difference_tolerance
        )


MODES: dict[str, Callable[[Session], int]] = {
    COMPILE: compile_only,
    GENERATE: generate,
    VALIDATE: validate,
    EVALUATE_SINGLE: evaluate_prompts,
    EVALUATE_ALL: evaluate_prompts,
}
