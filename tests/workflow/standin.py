"""Stands in for the heavy programs that rules call: quick, deterministic, complete.

A test puts a copy of this file as `sitecustomize.py` into a copy of the repository. Jobs have that
folder on PYTHONPATH, so every Python that they start runs this first; where the program is one of
the workflow's, it is acted out here and the process ends before the real one begins. Rules, their
inputs and their commands stay the real ones, and so does the way programs write: aside, renamed.
Programs that the variable STANDIN_REAL names run themselves.

Each output holds a hash of the program's flags and of every file that they name.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path

OUTPUT_FLAGS = {
    "--manifest", "--output", "--json", "--table", "--pdf", "--png", "--csv", "--html", "--numbers",
}  # fmt: skip


def act(program: str, words: list[str]) -> None:
    """Write what `program` would write when it is called with `words`."""
    print(json.dumps(words), flush=True)
    flags = _flags(words)
    outputs = [Path(flags[name]) for name in sorted(OUTPUT_FLAGS & flags.keys())]
    artefact = Path(flags.get("--compiled-model-path", ".")) / "manifest.json"
    if "--compile-only" in flags:
        outputs = [artefact]
    elif program == "main" and "--enable-nki" not in flags:
        outputs.insert(0, outputs[0].with_suffix(".npz"))
    named = [Path(word) for word in words] + [artefact]
    read = sorted({str(path) for path in named if path.is_file() and path not in outputs})
    digest = hashlib.sha256("\0".join([program, *words]).encode())
    for name in read:
        digest.update(Path(name).read_bytes())
    kind = _kind(program, flags)
    if "STANDIN_STARTED" in os.environ:
        Path(os.environ["STANDIN_STARTED"], kind).write_text(str(os.getpid()))
    if os.environ.get("STANDIN_FAILS") == kind:
        raise RuntimeError(f"{kind} fails as asked")
    if "--directory" in flags:
        _write(Path(flags["--directory"], "model.safetensors"), "weights")
    for output in outputs:
        _pause()
        _write(output, f"{output.name} {digest.hexdigest()}\n")
    _pause()


def _flags(words: list[str]) -> dict[str, str]:
    flags: dict[str, str] = {}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--"):
            name, separator, value = word.partition("=")
            flags[name] = value if separator else following
    return flags


def _kind(program: str, flags: dict[str, str]) -> str:
    """Return the name by which tests wait for a job of this kind, or have it fail."""
    if program != "main":
        return program
    if "path_checks" in flags.get("--output", ""):
        return "check_path"
    step = "compile" if "--compile-only" in flags else "evaluate"
    return f"{step}_{'nki' if '--enable-nki' in flags else 'baseline'}"


def _pause() -> None:
    time.sleep(float(os.environ.get("STANDIN_PAUSE_S", "0")))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    aside.write_text(text[: len(text) // 2])
    _pause()
    aside.write_text(text)
    os.replace(aside, path)


def _program(command: list[str]) -> tuple[str, list[str]] | None:
    if command[1:2] == ["-m"] and command[2].startswith("workflow.scripts."):
        return command[2].rpartition(".")[2], command[3:]
    if command[1:2] == ["-m"] and command[2] in ("prediction", "tuning", "validation"):
        return command[2], command[3:]
    if command[1:2] in (["main.py"], ["test_nki_kernels.py"]):
        return Path(command[1]).stem, command[2:]
    return None


REAL = os.environ.get("STANDIN_REAL", "").split()

if __name__ == "sitecustomize" and (found := _program(sys.orig_argv)) and found[0] not in REAL:
    try:
        act(*found)
    except BaseException as error:
        print(f"stand-in: {error}", file=sys.stderr)
        os._exit(1)
    os._exit(0)
