"""The strict command line of main.py: parsing, defaults by backend, refusals and help.

Whatever the table in `evaluation.flags` does not name is refused, and so is whatever would have no
effect or contradicts another flag: a run never means something else than what was typed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from evaluation import flags
from evaluation.flags import (
    COMPILE,
    DEVICE,
    EXPLAIN,
    FLAGS,
    GENERATE,
    GROUPS,
    NEURON,
    VALIDATE,
    Flag,
    Group,
    OneOf,
    ToleranceMap,
    closest,
    switch,
)

USAGE = "main.py --mode MODE --model-path DIR --compiled-model-path DIR [FLAG ...]"
NKI_MODULE = "qwen_with_nki"
BASELINE_MODULE = "qwen"
DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses."""

MAKE_MODEL = "./run results/model_manifest.json"
"""Command that leaves the checkpoint of the default configuration in results/model."""

_DESCRIPTION = """\
Runs Qwen3-MoE with and without NKI kernels: generates, checks accuracy, measures.
The default backend simulates the kernels on any CPU; its times are times of a simulation."""

_EPILOG = f"""\
A switch may be written --x, --no-x, --x True or --x False. Flags may not be abbreviated.
Exit status: {DONE} done; {FAILED} failed, for instance accuracy not reached; {REFUSED} refused \
flags; {INTERRUPTED} interrupted.

A first run, with a small checkpoint that needs no download:
  {MAKE_MODEL}
  python3 main.py --mode generate --enable-nki --model-path results/model \\
      --compiled-model-path results/compiled/nki --prompt "What is the capital of France?"
"""


@dataclass(frozen=True)
class Options:
    """What was asked for, after every check; names are those of the flags.

    `mode` is "compile_only" for `--compile-only`, "explain" for `--explain`. `device` holds the
    values for the Neuron driver by the name of NeuronConfig's keyword, without those that are not
    set; empty on the CPU.
    """

    mode: str
    enable_nki: bool
    backend: str
    platform_target: str
    torch_dtype: str
    kernel_path: str
    seed: int
    time_limit_s: int | None
    model_path: Path
    model_manifest: Path | None
    compiled_model_path: Path
    skip_compile: bool
    prompts: list[str] | None
    prompt_id: int | None
    prompts_file: Path
    seq_len: int
    max_new_tokens: int | None
    batch_size: int
    divergence_difference_tol: float
    tol_map: ToleranceMap | None
    num_tokens_to_check: int | None
    baseline_path: Path | None
    warmup_runs: int
    timed_runs: int
    output: Path | None
    resume: bool
    base_latency: float | None
    base_throughput: float | None
    team_id: str | None
    member_id: str | None
    verbose: bool
    quiet: bool
    explain: str | None = None
    record: Path = flags.DEFAULT_RECORD
    device: Mapping[str, Any] = field(default_factory=dict)

    @property
    def variant(self) -> str:
        """Name of the model that is asked for: "nki" or "baseline"."""
        return "nki" if self.enable_nki else "baseline"


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Return the options of a command line; exits with status 2, and why, when it is refused."""
    parser = build_parser()
    namespace, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.error("\n".join(_unknown(word) for word in unknown))
    given = vars(namespace)
    backend = given.get("backend", FLAGS["backend"].default)
    values = {key: flag.default_on(backend) for key, flag in FLAGS.items()} | given
    request = Request(values, frozenset(given))
    problems = [problem for rule in RULES for problem in rule(request)]
    if problems:
        parser.error("\n".join(problems))
    return _options(request)


def explain_absence(error: ModuleNotFoundError) -> str:
    """Return what to do when this Python lacks a package."""
    return (
        f"{error} in {sys.executable}, which is not the project's environment: `./run setup` makes "
        "that, .venv/bin/python main.py uses it"
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; it keeps only what was given, so that defaults can follow the backend."""
    parser = _Parser(
        prog="main.py", usage=USAGE, description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=_Help, allow_abbrev=False, argument_default=argparse.SUPPRESS,
        add_help=False,
    )  # fmt: skip
    for group in GROUPS:
        title = f"--backend neuron only: {group.title}" if group.device else group.title
        section = parser.add_argument_group(title)
        for flag in group.flags:
            _add(section, flag)
        if group is flags.MESSAGES:
            section.add_argument("-h", "--help", action="help", help="show this and stop")
    return parser


def _add(section: Any, flag: Flag) -> None:
    common: dict[str, Any] = {"dest": flag.key, "help": _help(flag), "default": argparse.SUPPRESS}
    if flag.kind is switch:
        names = (flag.name, flag.name.replace("--", "--no-", 1))
        section.add_argument(*names, action=_Switch, **common)
        return
    common |= {"type": flag.kind, "metavar": _metavar(flag)}
    if flag.several == "repeat":
        section.add_argument(flag.name, action="append", **common)
    else:
        nargs = "+" if flag.several == "list" else None
        section.add_argument(flag.name, action=_Once, nargs=nargs, **common)


class _Once(argparse.Action):
    """Stores a value and refuses another one for the same flag."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest, values)
        if before != values:
            name = self.option_strings[0]
            parser.error(f"{name} is given as {before} and as {values}; keep one")
        setattr(namespace, self.dest, values)


class _Switch(_Once):
    """A switch as `--x`, `--no-x`, `--x True` or `--x False`."""

    def __init__(self, option_strings: Sequence[str], dest: str, **others: Any) -> None:
        super().__init__(option_strings, dest, nargs="?", type=switch, **others)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        positive, negative = self.option_strings
        if option_string == negative and values is not None:
            parser.error(f"{negative} takes no value; write {negative} or {positive} {values}")
        value = option_string != negative if values is None else values
        super().__call__(parser, namespace, value, option_string)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are the message alone: the usage of 150 flags would bury it."""

    def error(self, message: str) -> NoReturn:
        for line in message.splitlines():
            print(f"{self.prog}: {line.removeprefix('argument ')}", file=sys.stderr)
        print(f"{self.prog}: nothing was run; --help lists the flags", file=sys.stderr)
        raise SystemExit(REFUSED)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help with a fixed column, and switches as --[no-]x."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=100)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, _Switch):
            return action.option_strings[0].replace("--", "--[no-]", 1)
        return super()._format_action_invocation(action)


def _help(flag: Flag) -> str:
    """Return meaning and default; a `%` alone would be argparse's own formatting."""
    default = flag.shown or _shown(flag.default)
    if not flag.shown and flag.default_on(NEURON) != flag.default:
        default += f"; on neuron {_shown(flag.default_on(NEURON))}"
    text = f"{flag.meaning} (default: {default})" if default else flag.meaning
    return text.replace("%", "%%")


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _metavar(flag: Flag) -> str:
    if isinstance(flag.kind, OneOf):
        return "{" + ",".join(flag.kind.names) + "}"
    kinds = {flags.path: "PATH", flags.text: "TEXT", flags.tolerance_map: "MAP"}
    return kinds.get(flag.kind, "N")


def _unknown(word: str) -> str:
    if not word.startswith("-"):
        return f"unexpected argument {word!r}; every argument follows a flag, texts need quotes"
    name = word.split("=")[0]
    return f"unknown flag {name}{closest(name, (flag.name for flag in FLAGS.values()))}"


@dataclass(frozen=True)
class Request:
    """The values of all flags, defaults included, and which of them were given."""

    values: Mapping[str, Any]
    given: frozenset[str]

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    @property
    def mode(self) -> str | None:
        """The mode, or "compile_only", or "explain"; None when none of them was given."""
        if self["explain"] is not None:
            return EXPLAIN
        return COMPILE if self["compile_only"] else self["mode"]

    @property
    def on_device(self) -> bool:
        """Whether a Trainium device was asked for."""
        return bool(self["backend"] == NEURON)


Problems = Iterator[str]


def _a_task(request: Request) -> Problems:
    if request.mode is None:
        modes = ", ".join((*flags.MODES, flags.DOCTOR))
        yield f"--mode is missing: choose one of {modes}, or --compile-only, or --explain"
    elif request["compile_only"] and request["mode"]:
        yield (
            f"--compile-only and --mode {request['mode']} contradict each other: --compile-only "
            "stops after compiling; drop one of them"
        )
    if request["compile_only"] and request["skip_compile"]:
        yield "--compile-only and --skip-compile leave nothing to do; drop one of them"
    if request["verbose"] and request["quiet"]:
        yield "--verbose and --quiet contradict each other; drop one of them"


def _one_model(request: Request) -> Problems:
    named = request["qwen"]
    if "qwen" in request.given and request["enable_nki"] and named != NKI_MODULE:
        yield (
            f"--enable-nki and --qwen {named} name two models; drop --enable-nki to run {named}, "
            "or --qwen to run the NKI model"
        )
    elif "enable_nki" in request.given and not request["enable_nki"] and named == NKI_MODULE:
        yield f"--enable-nki is off and --qwen names {NKI_MODULE}; drop one of them"
    elif not request.on_device and named not in (BASELINE_MODULE, NKI_MODULE):
        yield (
            f"--qwen {named}: --backend {request['backend']} has two models, {BASELINE_MODULE} "
            f"(the baseline) and {NKI_MODULE} (the same as --enable-nki)"
        )
    if request.mode == VALIDATE and "enable_nki" in request.given and not request["enable_nki"]:
        yield "--mode validate compares the NKI model with the baseline; drop --no-enable-nki"


def _paths(request: Request) -> Problems:
    if request.mode in (flags.DOCTOR, EXPLAIN):
        return  # the first looks where the workflow puts them, the second needs none
    if request["model_path"] is None:
        yield (
            "--model-path is missing: the folder of a Hugging Face checkpoint. "
            f"`{MAKE_MODEL}` makes a small one; then use --model-path results/model"
        )
    if request["compiled_model_path"] is None:
        yield (
            "--compiled-model-path is missing: the folder to compile into, or with --skip-compile "
            "the folder of what was compiled; for instance --compiled-model-path results/compiled/"
            + ("nki" if _wants_nki(request) else "baseline")
        )


def _prompts(request: Request) -> Problems:
    by_text, by_id = bool(request["prompts"]), request["prompt_id"] is not None
    if by_text and by_id:
        yield "--prompt and --prompt-id both choose the prompt; drop one of them"
    elif by_text and "prompts_file" in request.given:
        yield "--prompts-file is not read when --prompt gives the text; drop one of them"
    if request.mode == flags.EVALUATE_SINGLE:
        if not by_text and not by_id:
            yield (
                "--mode evaluate_single needs one prompt: --prompt-id N (a prompt of the prompts "
                "file, from 0) or --prompt TEXT; --mode evaluate_all measures all of them"
            )
        if by_text and len(request["prompts"]) > 1:
            count = len(request["prompts"])
            yield f"--mode evaluate_single takes one --prompt, received {count}"


def _lengths(request: Request) -> Problems:
    length, new_tokens = request["seq_len"], request["max_new_tokens"]
    if request["max_length"] not in (None, length):
        yield (
            f"--max-length {request['max_length']} differs from --seq-len {length}; the two are "
            "one setting, give --seq-len alone"
        )
    if new_tokens is not None and new_tokens >= length:
        yield (
            f"--max-new-tokens {new_tokens} leaves no room for a prompt in --seq-len {length}; "
            "lower the first or raise the second"
        )
    if new_tokens == 1 and request.mode in flags.EVALUATE:
        yield "--max-new-tokens 1 leaves no decode step to measure; ask for 2 or more"
    checked, most = request["num_tokens_to_check"], new_tokens or length - 1
    if checked and checked > most:
        yield f"--num-tokens-to-check {checked} is more than the {most} tokens generated at most"


def _backend(request: Request) -> Problems:
    if request.on_device:
        return
    backend = request["backend"]
    if request["batch_size"] != 1:
        yield (
            f"--batch-size {request['batch_size']}: --backend {backend} runs one sequence at a "
            "time; leave it at 1 and repeat --prompt, prompts take turns"
        )
    if request["torch_dtype"] == "float16":
        yield (
            f"--torch-dtype float16: the kernels are declared for float32 and bfloat16; use one "
            f"of them on --backend {backend}"
        )
    for group in DEVICE:
        for flag in group.flags:
            yield from _device_alone(request, group, flag)


def _device_alone(request: Request, group: Group, flag: Flag) -> Problems:
    value = request[flag.key]
    if flag.key not in request.given or value in (flag.default, *flag.cpu_values):
        return
    yield (
        f"{flag.name}: applies to --backend neuron; on --backend {request['backend']} "
        f"{flag.why or group.why}. Drop it"
    )


def _measuring(request: Request) -> Problems:
    if (request["base_latency"] is None) != (request["base_throughput"] is None):
        yield "--base-latency and --base-throughput belong to one baseline; give both or none"
    if not request["benchmark"]:
        yield "--no-benchmark: the evaluate modes always measure; --mode validate only compares"
    if request["resume"] and request["output"] is None:
        yield "--resume needs --output, the folder with the evaluation files of the last run"


def _no_effect(request: Request) -> Problems:
    """Refuse what the mode does not use: a flag without effect is a misunderstanding."""
    mode = request.mode
    for key in sorted(request.given):
        flag = FLAGS[key]
        unset = request[key] is False or request[key] == flag.default
        if mode is None or mode in flag.modes or unset:
            continue
        name = {COMPILE: "--compile-only", EXPLAIN: "--explain"}.get(mode, f"--mode {mode}")
        yield f"{flag.name} has no effect in {name}, only in {_listing(flag.modes)}; drop it"


def _listing(modes: Sequence[str]) -> str:
    return ", ".join("--explain" if mode == EXPLAIN else mode for mode in modes if mode != COMPILE)


def _wants_nki(request: Request) -> bool:
    """Whether the NKI model is asked for; generating and compiling take it by name as well."""
    return bool(request["enable_nki"] or request["qwen"] == NKI_MODULE or request.mode == VALIDATE)


RULES: tuple[Callable[[Request], Problems], ...] = (
    _a_task,
    _one_model,
    _paths,
    _prompts,
    _lengths,
    _backend,
    _measuring,
    _no_effect,
)
"""Every rule is asked, so that one message lists all that is to be changed."""


def _options(request: Request) -> Options:
    names = {f.name for f in fields(Options)} - {"device", "mode", "enable_nki"}
    device: dict[str, Any] = {}
    if request.on_device:
        keys = (flag.key for group in DEVICE for flag in group.flags)
        device = {key: request[key] for key in keys if request[key] is not None}
        device["qwen"] = request["qwen"]
    values = {name: request[name] for name in sorted(names)}
    if request.mode in (flags.DOCTOR, EXPLAIN):
        variant = "nki" if _wants_nki(request) else "baseline"
        values["model_path"] = values["model_path"] or flags.ROOT / "results" / "model"
        values["compiled_model_path"] = (
            values["compiled_model_path"] or flags.ROOT / "results" / "compiled" / variant
        )
    return Options(
        mode=request.mode or GENERATE, enable_nki=_wants_nki(request), device=device, **values
    )
