"""Runs the baseline of an evaluation in a process of its own, since one device holds one model.

A model's device memory is given back for certain when its process ends, and two models of 30B
parameters do not fit side by side. The process is main.py again, with a command line made from the
options of this one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation.backends import DriverError
from evaluation.commandline import DONE, INTERRUPTED, Options
from evaluation.flags import (
    COMPILE,
    DEVICE,
    EVALUATE_ALL,
    EVALUATE_SINGLE,
    FLAGS,
    ROOT,
    VALIDATE,
    Flag,
    switch,
    tolerance_map,
)
from evaluation.prompts import Prompt

_TASK = ("mode", "compile_only", "qwen", "max_length", "benchmark")
_OF_DEVICE = {flag.key for group in DEVICE for flag in group.flags}


def evaluate_baseline(options: Options, prompts: Sequence[Prompt], folder: Path) -> None:
    """Evaluate the baseline of each prompt into `folder`/prompt_<id>.json.

    `options` are those of the run that needs it; for `--mode validate` a single run is timed.
    DriverError when the process fails; its messages have been shown.
    """
    common: dict[str, Any] = {"enable_nki": False, "baseline_path": None, "tol_map": None}
    common |= {"num_tokens_to_check": None, "divergence_difference_tol": 0.001}
    common["device"] = {**options.device, "qwen": "qwen"}
    if options.mode == VALIDATE:
        common |= {"warmup_runs": 0, "timed_runs": 1}
    if options.prompts is None and options.prompt_id is None:
        everything = replace(options, mode=EVALUATE_ALL, output=folder.parent, **common)
        _run(words(everything), ", ".join(prompt.name for prompt in prompts))
        return
    for prompt in prompts:
        chosen: dict[str, Any] = {"prompts": [prompt.text]} if options.prompts else {}
        output = folder / f"prompt_{prompt.id}.json"
        single = replace(options, mode=EVALUATE_SINGLE, output=output, **common, **chosen)
        _run(words(single), prompt.name)


def words(options: Options) -> list[str]:
    """Return a command line that `evaluation.commandline.parse` reads as these options."""
    task = ["--compile-only"] if options.mode == COMPILE else ["--mode", options.mode]
    return [*task, *(word for flag in FLAGS.values() for word in _words_of(flag, options))]


def _words_of(flag: Flag, options: Options) -> Iterator[str]:
    default = flag.default_on(options.backend)
    if flag.key in _OF_DEVICE:
        value = options.device.get(flag.key, default)
    else:
        value = getattr(options, flag.key, default)
    if flag.key in _TASK or options.mode not in flag.modes or value is None or value == default:
        return
    if flag.kind is switch or flag.kind is tolerance_map:
        yield f"{flag.name}={json.dumps(value) if flag.kind is tolerance_map else value}"
    elif flag.several == "list":
        yield from (flag.name, *map(str, value))
    else:
        for one in value if flag.several else [value]:
            yield f"{flag.name}={one}"


def _run(arguments: Sequence[str], what: str) -> None:
    """Run main.py; what it shows goes to stderr, since it is no result of this run."""
    command = [sys.executable, str(ROOT / "main.py"), *arguments]
    status = subprocess.run(command, stdout=sys.stderr, stdin=subprocess.DEVNULL).returncode
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    if status != DONE:
        raise DriverError(
            f"the baseline's evaluation of {what} ended with status {status}; its messages are "
            "above. It was started because --baseline-path was not given"
        )
