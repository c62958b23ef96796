"""The second line of defence against stale files: every input of the record is compared with now.

The workflow reruns what is stale; this refuses what reached the record in any other way, for
instance a file copied from elsewhere or made by hand before an edit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.artefact import VARIANTS, CompileSettings, artefact_inputs, differing
from evaluation.checks import CHECKED_PROMPT, CHECKED_TOKENS, Check, path_checks
from evaluation.files import FileError, read_json, sha256_json
from evaluation.problems import lookup
from evaluation.prompts import Prompt
from evaluation.provenance import kernel_test_inputs

_SHARED_PARTS = {"evaluated_at", "prompt", "settings", "host_time", "inputs", "provenance"}
_SIMULATED_PARTS = {"kernel_path", "coverage", "drift"}
_DEVICE_PARTS = {"mac_ratio", "device"}
_OF_THE_DEVICE = ("sdk", "neuron_config")
"""What the artefact of a device alone knows."""


class StaleInput(RuntimeError):
    """Files that do not belong to the present sources, model, prompts or configuration."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        lines = "".join(f"\n  {problem}" for problem in problems)
        super().__init__(f"no record was written, because its inputs do not fit together:{lines}")


@dataclass(frozen=True)
class ResultFile:
    """A result and where it came from."""

    path: Path
    content: dict[str, Any]


@dataclass(frozen=True)
class Present:
    """What results must have been made from: the state of things now."""

    config: Mapping[str, Any]
    prompts: Sequence[Prompt]
    model_manifest_sha256: str
    sources: Mapping[str, Mapping[str, Mapping[str, str]]]

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings of an evaluation that the configuration asks for."""
        evaluation = self.config["evaluation"]
        names = ("sequence_length", "max_new_tokens", "warmup_runs", "timed_runs", "seed")
        return {**{n: evaluation[n] for n in names}, "dtype": self.config["model"]["dtype"]}

    @property
    def compile_settings(self) -> CompileSettings:
        """Return the settings of a compilation that the configuration asks for."""
        config = self.config
        return CompileSettings(
            config["backend"], config["platform_target"], config["model"]["dtype"]
        )


def read_results(paths: Sequence[Path]) -> list[ResultFile]:
    """Read result files; StaleInput lists those that are missing, damaged or no JSON objects."""
    files, problems = [], []
    for path in paths:
        try:
            content = read_json(path)
        except FileError as error:
            problems.append(str(error))
            continue
        if isinstance(content, dict):
            files.append(ResultFile(Path(path), content))
        else:
            problems.append(f"{path}: not a result: no JSON object")
    if problems:
        raise StaleInput(problems)
    return files


def stale_artefacts(artefacts: Sequence[ResultFile], present: Present) -> Iterator[str]:
    """Yield what is wrong with the artefacts: one per variant, made from what there is now."""
    yield from _one_each(artefacts, "variant", VARIANTS, "compile it")
    for file in artefacts:
        variant = file.content.get("variant")
        recorded = file.content.get("inputs")
        if variant not in VARIANTS or not isinstance(recorded, dict):
            yield f"{file.path}: not an artefact; compile again"
            continue
        if file.content.get("key") != sha256_json(recorded):
            yield f"{file.path}: the key is not the hash of the inputs; compile {variant} again"
        known, now = _comparable(variant, recorded, present)
        for difference in differing(known, now):
            yield f"{file.path}: {difference}; compile {variant} again"


def _comparable(
    variant: str, recorded: Mapping[str, Any], present: Present
) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """Return what an artefact states of its inputs and what there is now, as far as both are known.

    A device's artefact also states its SDK and the whole NeuronConfig. The record may be made where
    neither is; of the latter the sequence length is asked for by the configuration.
    """
    now = artefact_inputs(variant, present.model_manifest_sha256, present.compile_settings)
    if present.config["backend"] != "neuron":
        return recorded, now
    known = {name: value for name, value in recorded.items() if name not in _OF_THE_DEVICE}
    known["seq_len"] = lookup(recorded, "neuron_config.seq_len")
    return known, {**now, "seq_len": present.settings["sequence_length"]}


def stale_evaluations(
    evaluations: Sequence[ResultFile], artefacts: Sequence[ResultFile], present: Present
) -> Iterator[str]:
    """Yield what is wrong with the evaluations: one per variant and prompt, none stale."""
    keys = {file.content.get("variant"): file.content.get("key") for file in artefacts}
    logits = {
        lookup(file.content, "prompt.id"): lookup(file.content, "logits.sha256")
        for file in evaluations
        if file.content.get("variant") == "baseline"
    }
    for variant in VARIANTS:
        of_variant = [file for file in evaluations if file.content.get("variant") == variant]
        ids = [prompt.id for prompt in present.prompts]
        yield from _one_each(of_variant, "prompt.id", ids, f"evaluate it with {variant}")
        for file in of_variant:
            prompt_id = lookup(file.content, "prompt.id")
            rerun = f"evaluate prompt {prompt_id} with {variant} again"
            on_device = present.config["backend"] == "neuron"
            missing = sorted(_parts(variant, on_device) - file.content.keys())
            if missing:
                lacking = ", ".join(missing)
                yield f"{file.path}: not a complete evaluation, without {lacking}; {rerun}"
                continue
            wanted = _wanted(variant, prompt_id, keys.get(variant), present)
            if variant == "nki":
                wanted["inputs"]["baseline_logits_sha256"] = logits.get(prompt_id)
                wanted["tolerances"] = _tolerances_asked(present.config)
                asked = present.config["model"]["kernel_path"]
                wanted["kernel_path"] = None if on_device else asked
            for difference in differing(_recorded(file.content), wanted):
                yield f"{file.path}: {difference}; {rerun}"
    others = [file for file in evaluations if file.content.get("variant") not in VARIANTS]
    for file in others:
        yield f"{file.path}: not an evaluation of {' or '.join(VARIANTS)}; leave it out"
    yield from _mixed(evaluations)


def stale_checks(checks: Sequence[ResultFile], present: Present) -> Iterator[str]:
    """Yield what is wrong with the short runs: one per check of `evaluation.checks`, none stale."""
    found: dict[str, list[ResultFile]] = {}
    for file in checks:
        path, dtype = (lookup(file.content, key) for key in ("kernel_path", "settings.dtype"))
        found.setdefault(f"{path}_{dtype}", []).append(file)
    wanted = {check.name: check for check in path_checks(present.config)}
    for name in sorted(found.keys() - wanted):
        yield f"{found[name][0].path}: a check of {name} is not wanted; leave it out"
    inputs = artefact_inputs("nki", present.model_manifest_sha256, present.compile_settings)
    for name, check in wanted.items():
        key = sha256_json({**inputs, "dtype": check.torch_dtype})
        files = found.get(name, [])
        if len(files) != 1:
            yield f"check {name}: {len(files)} files, expected one; run it"
        for file in files:
            yield from _stale_check(file, check, key, present)


def _stale_check(
    file: ResultFile, check: Check, artefact_key: str, present: Present
) -> Iterator[str]:
    missing = sorted(_parts("nki", on_device=False) - file.content.keys())
    if missing:
        yield f"{file.path}: not a complete evaluation, without {', '.join(missing)}; run it again"
        return
    wanted = _wanted("nki", CHECKED_PROMPT, artefact_key, present)
    short = {"max_new_tokens": CHECKED_TOKENS, "warmup_runs": 0, "timed_runs": 1}
    wanted["settings"] |= {**short, "dtype": check.torch_dtype}
    wanted["tolerances"] = _tolerances_asked(present.config)
    wanted["kernel_path"] = check.kernel_path
    recorded = _recorded(file.content)
    recorded["inputs"].pop("baseline_logits_sha256", None)  # of a baseline of its own
    for difference in differing(recorded, wanted):
        yield f"{file.path}: {difference}; check {check.name} again"


def stale_kernel_tests(tests: Sequence[ResultFile], kernels: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the kernel tests: each kernel tested in one file, and passed."""
    found: Counter[str] = Counter()
    for file in tests:
        results = file.content.get("kernels")
        if not isinstance(results, dict):
            yield f"{file.path}: not the result of a kernel test; run it again"
            continue
        found.update(results.keys())
        for name, result in results.items():
            if lookup(result, "passed") is not True:
                yield f"{file.path}: the test of {name} failed; mend the kernel and run it again"
            elif name in kernels:
                recorded = lookup(result, "inputs")
                now = kernel_test_inputs(name)
                for difference in differing(recorded if isinstance(recorded, dict) else {}, now):
                    yield f"{file.path}: {difference}; test {name} again"
    for name in kernels:
        if found[name] != 1:
            yield f"kernel {name}: {found[name]} test results, expected one; test it"
    for name in sorted(found.keys() - set(kernels)):
        yield f"kernel {name}: tested, but not among the kernels there are; leave it out"


def _wanted(variant: str, prompt_id: int, artefact_key: Any, present: Present) -> dict[str, Any]:
    """Return what an evaluation would record if it were made now."""
    prompts = {prompt.id: prompt for prompt in present.prompts}
    prompt = prompts.get(prompt_id)
    return {
        "backend": present.config["backend"],
        "platform_target": present.config["platform_target"],
        "prompt": {"name": prompt.name, "sha256": prompt.sha256} if prompt else {},
        "settings": present.settings,
        "inputs": {
            "model_manifest_sha256": present.model_manifest_sha256,
            "artefact_key": artefact_key,
            **present.sources[variant],
        },
    }


def _parts(variant: str, on_device: bool) -> set[str]:
    """Return what an evaluation of a variant holds."""
    parts = _SHARED_PARTS | (_DEVICE_PARTS if on_device else set())
    if variant == "baseline":
        return parts | {"logits"}
    own = {"accuracy", "launches", "fallbacks"}
    return parts | own | (set() if on_device else _SIMULATED_PARTS)


def _recorded(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of an evaluation that `_wanted` speaks of."""
    recorded = {
        name: dict(found) if isinstance(found := evaluation.get(name, {}), Mapping) else found
        for name in ("backend", "platform_target", "settings", "inputs")
    }
    recorded["prompt"] = {name: lookup(evaluation, f"prompt.{name}") for name in ("name", "sha256")}
    if evaluation.get("variant") == "nki":
        recorded["tolerances"] = _tolerances_used(evaluation)
        recorded["kernel_path"] = evaluation.get("kernel_path")
    return recorded


def _tolerances_asked(config: Mapping[str, Any]) -> dict[str, Any]:
    asked = config["evaluation"]
    pairs = {key: list(map(float, pair)) for key, pair in asked["tolerance_map"].items()}
    return {**pairs, "divergence": float(asked["divergence_difference_tolerance"])}


def _tolerances_used(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    used: dict[str, Any] = {"divergence": lookup(evaluation, "accuracy.divergence_tolerance")}
    for entry in lookup(evaluation, "accuracy.top_k") or []:
        key = str(lookup(entry, "top_k"))
        used[key] = [lookup(entry, "absolute_tolerance"), lookup(entry, "relative_tolerance")]
    return used


def _one_each(
    files: Sequence[ResultFile], key: str, wanted: Sequence[Any], remedy: str
) -> Iterator[str]:
    """Yield what is missing or there more than once."""
    name = key.split(".")[0]
    counts = Counter(str(lookup(file.content, key)) for file in files)
    for value in wanted:
        if counts[str(value)] == 0:
            yield f"{name} {value}: no file for it; {remedy}"
        if counts[str(value)] > 1:
            paths = [str(f.path) for f in files if str(lookup(f.content, key)) == str(value)]
            yield f"{name} {value}: more than one file ({', '.join(paths)}); keep one"
    for value in sorted(counts.keys() - {str(value) for value in wanted}):
        paths = [str(f.path) for f in files if str(lookup(f.content, key)) == value]
        yield f"{', '.join(paths)}: {name} {value} is not wanted; leave it out"


def _mixed(evaluations: Sequence[ResultFile]) -> Iterator[str]:
    """Yield evaluations made with other packages or on another machine than the first one."""
    made_by = [_made_by(file.content) for file in evaluations]
    for file, own in zip(evaluations[1:], made_by[1:], strict=True):
        for difference in differing(made_by[0], own):
            yield (
                f"{file.path}: not made as {evaluations[0].path} was: {difference}; evaluate all "
                "prompts again with one environment on one machine"
            )


def _made_by(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return what bears on times and logits: packages and machine, not what started the run."""
    versions = lookup(evaluation, "provenance.versions")
    relevant = dict(versions) if isinstance(versions, dict) else {}
    relevant.pop("snakemake", None)
    machine = {
        name: lookup(evaluation, f"provenance.machine.{name}") for name in ("platform", "cpu")
    }
    return {"versions": relevant, "machine": machine}
