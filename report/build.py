"""From LaTeX source to PDF with latexmk.

Shell escape is off, identical inputs give identical bytes, and errors say what is wrong and where.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from datetime import datetime
from pathlib import Path

from evaluation.files import write_atomically

BUILD_DIR = Path(__file__).resolve().parents[1] / "results" / "latex"
"""Where TeX writes: apart from the sources, so that no stale auxiliary file is ever read."""

TEX_PACKAGES = (
    "latexmk texlive-latex-recommended texlive-latex-extra texlive-science texlive-pictures lmodern"
)
INSTALL_TEX = f"apt-get install --no-install-recommends {TEX_PACKAGES}"
"""Debian's packages that the report is typeset with, and the command that brings them."""

_TIMEOUT_S = 300
_ERROR_AT = re.compile(r"^(?P<file>[^\s:][^:]*):(?P<line>\d+): (?P<message>.+)$")
_WARNINGS = re.compile(
    r"^(?:LaTeX|Package natbib) Warning: (?P<message>(?:Citation|Reference) .+? undefined.*"
    r"|There were multiply-defined labels.*)|^(?P<missing>Missing character: .+)"
)
_BIBTEX_ERROR = re.compile(
    r"^(I couldn't open|I was expecting|Repeated entry|Warning--I didn't find).*"
)
_OVERFULL = re.compile(r"^Overfull \\[hv]box .+")


class TexError(RuntimeError):
    """LaTeX could not make the document."""


class LatexmkMissing(TexError):
    """The TeX tools are not installed."""


def epoch_of(timestamp: str) -> int:
    """Return a record's ISO timestamp as seconds since 1970, for SOURCE_DATE_EPOCH."""
    moment = datetime.fromisoformat(timestamp.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        raise ValueError(
            f"the timestamp {timestamp!r} has no time zone; write it in UTC, ending in Z"
        )
    return int(moment.timestamp())


def build_pdf(
    tex: Path, pdf: Path, source_date_epoch: int, build_dir: Path = BUILD_DIR
) -> list[str]:
    """Typeset `tex` into `pdf` and return the overfull boxes, as TeX's log words them.

    Files that the source names (figures, bibliography) are looked up beside it. `build_dir` is
    emptied first; the log stays there. `pdf` appears only when all went well. Undefined references
    and citations, missing glyphs and BibTeX's complaints are errors like any other. Raises TexError
    with the first one, and LatexmkMissing with the command that installs it.
    """
    tex, pdf, build_dir = Path(tex).resolve(), Path(pdf), Path(build_dir).resolve()
    _require_latexmk()
    if not tex.is_file():
        raise TexError(f"{tex}: no such LaTeX source; render the report first")
    shutil.rmtree(build_dir, ignore_errors=True)
    build_dir.mkdir(parents=True)
    shutil.copyfile(tex, build_dir / tex.name)
    result = _latexmk(tex, build_dir, source_date_epoch)
    log_path = build_dir / f"{tex.stem}.log"
    log = _read(log_path)
    problem = _first_problem(log, _read(log_path.with_suffix(".blg")))
    if problem is not None or result.returncode != 0:
        raise TexError(_explain(problem or _last_words(result), tex, log_path))
    write_atomically(pdf, (build_dir / f"{tex.stem}.pdf").read_bytes())
    return [line for line in log.splitlines() if _OVERFULL.match(line)]


def _require_latexmk() -> None:
    if shutil.which("latexmk") is None:
        raise LatexmkMissing(
            f"latexmk is not installed, so the PDF cannot be built; run: sudo {INSTALL_TEX}"
        )


def _latexmk(tex: Path, build_dir: Path, epoch: int) -> subprocess.CompletedProcess[str]:
    """Run latexmk in `build_dir`, `tex`'s folder on the search paths, log lines unbroken."""
    command = ["latexmk", "-norc", "-pdf", "-Werror", "-latexoption=-no-shell-escape"]
    command += ["-interaction=nonstopmode", "-halt-on-error", "-file-line-error", tex.name]
    environment = os.environ | {
        "SOURCE_DATE_EPOCH": str(epoch),
        "FORCE_SOURCE_DATE": "1",
        "TEXINPUTS": f".:{tex.parent}:",
        "BIBINPUTS": f".:{tex.parent}:",
        "max_print_line": "10000",
        "error_line": "254",
        "half_error_line": "238",
        "openout_any": "p",
    }
    with subprocess.Popen(
        command,
        cwd=build_dir,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise TexError(
                f"{tex}: LaTeX did not end within {_TIMEOUT_S} s; log in {build_dir}"
            ) from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # the engine too, not latexmk alone
    return subprocess.CompletedProcess(command, process.returncode, output)


def _first_problem(log: str, bibtex_log: str) -> str | None:
    """Return the first error of the logs: TeX's own, then BibTeX's, then what TeX only warns of."""
    lines = log.splitlines()
    for line in lines:
        if _ERROR_AT.match(line) or line.startswith("! "):
            return line
    for line in bibtex_log.splitlines():
        if _BIBTEX_ERROR.match(line):
            return f"BibTeX: {line.removeprefix('Warning--')}"
    for line in lines:
        if match := _WARNINGS.match(line):
            return match["message"] or match["missing"]
    return None


def _explain(problem: str, tex: Path, log_path: Path) -> str:
    """Return the message for `problem`: the error, the source line, and where the log is."""
    match = _ERROR_AT.match(problem)
    number = int(match["line"]) if match else _input_line(problem)
    where = tex if match is None or Path(match["file"]).name == tex.name else Path(match["file"])
    message = match["message"] if match else problem.removeprefix("! ")
    if number is None:
        return f"{tex}: {message}\nFull log: {log_path}"
    source = _read(where).splitlines()
    line = source[number - 1].strip() if 0 < number <= len(source) else "(line not available)"
    return f"{where}:{number}: {message}\n    {line}\nFull log: {log_path}"


def _input_line(warning: str) -> int | None:
    match = re.search(r"on input line (\d+)", warning)
    return int(match[1]) if match else None


def _last_words(result: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in result.stdout.splitlines() if line.strip()]
    return f"latexmk ended with status {result.returncode}: {' / '.join(lines[-3:])}"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
