"""How the command line writes: source lines, errors, tables, numbers."""

from __future__ import annotations

import linecache
import os
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SimulationError
from ..places import PACKAGE

if TYPE_CHECKING:
    from ..trace import Launch

LONGEST = 8
"""Source lines shown of one statement."""


def short_path(path: str | Path) -> str:
    """A path relative to the current folder where it lies below it."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def kernel_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of a traceback that belong to the kernel, outermost first."""
    frames = traceback.extract_tb(error.__traceback__)
    launch = f"{PACKAGE}kernel.py"
    first = next((i for i, f in enumerate(frames) if f.filename == launch), len(frames))
    inside = [f for f in frames[first:] if _is_kernels(f.filename)]
    return inside or [f for f in frames if _is_kernels(f.filename)][-1:]


def _is_kernels(file: str) -> bool:
    standard = file.startswith(_STANDARD_LIBRARY) and "site-packages" not in file
    return not standard and not file.startswith((PACKAGE, "<"))


_STANDARD_LIBRARY = os.path.dirname(linecache.__file__) + os.sep


def show_source(file: str, first: int, last: int | None = None) -> str:
    """Lines of a file, indented, at most `LONGEST`."""
    last = first if last is None else last
    lines = [linecache.getline(file, n).rstrip("\n") for n in range(first, last + 1)]
    if len(lines) > LONGEST:
        lines = [*lines[: LONGEST - 1], "..."]
    margin = min((len(t) - len(t.lstrip()) for t in lines if t.strip()), default=0)
    return "\n".join(f"    {line[margin:]}" for line in lines)


def explain_error(error: BaseException) -> str:
    """An error of a kernel: where in its source, what the rule is, what to do."""
    kind = type(error).__name__
    frames = kernel_frames(error)
    parts = [f"error: {kind}" + (f" in {frames[-1].name}" if frames else "")]
    for frame in frames[:-1]:
        parts.append(f"  {short_path(frame.filename)}:{frame.lineno} in {frame.name}")
    if frames:
        last = frames[-1]
        line = last.lineno or 1
        parts.append(f"  {short_path(last.filename)}:{line} in {last.name}")
        parts.append(show_source(last.filename, line, getattr(last, "end_lineno", None)))
    if isinstance(error, SimulationError):
        parts += [f"  {label:9} {text}" for label, text in _four_parts(error) if text]
        parts.append(f"  more:     python -m nki_sim explain {kind}")
    else:
        parts.append(f"  {str(error) or 'no message'}")
        inner = traceback.extract_tb(error.__traceback__)
        if inner and inner[-1].filename.startswith(PACKAGE):
            where = f"{short_path(inner[-1].filename)}:{inner[-1].lineno}"
            parts.append(f"  raised inside the simulator, at {where}: a defect of the simulator")
    return "\n".join(parts)


def _four_parts(error: SimulationError) -> Iterator[tuple[str, str]]:
    yield "operation", error.operation
    yield "rule", error.rule
    yield "received", error.received
    yield "remedy", error.remedy


def table(header: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """Columns as wide as needed; the first `left` and the last are aligned left."""
    texts = [list(header), *([_cell(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(header))]
    lines = []
    for row in texts:
        cells = [
            text.ljust(width) if i < left or i == len(row) - 1 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def size(count: int) -> str:
    """Bytes in words."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:.4g} {unit}"
    return f"{count} B"


@contextmanager
def collected_warnings() -> Iterator[dict[str, int]]:
    """The warnings raised inside, and how often each."""
    found: dict[str, int] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield found
        finally:
            for one in caught:
                where = f"{short_path(one.filename)}:{one.lineno}: "
                text = (where if _is_kernels(one.filename) else "") + str(one.message)
                found[text] = found.get(text, 0) + 1


def show_warnings(raised: dict[str, int], launches: Iterable[Launch]) -> str:
    """Warnings raised, and findings of launches, one per line; nothing when there are none."""
    texts = [f"{text} ({count} times)" if count > 1 else text for text, count in raised.items()]
    for launch in launches:
        texts += launch.warnings
        texts += [f"assumed: {what} ({count} times)" for what, count in launch.assumed.items()]
    return "".join(f"warning: {text}\n" for text in dict.fromkeys(texts))


def excerpt(file: str, line: int, opcode: str) -> str:
    """The statement that starts in a line, on one line and short."""
    source = ""
    for number in range(line, line + 12):
        source = f"{source} {linecache.getline(file, number).strip()}".strip()
        if source.count("(") <= source.count(")"):
            break
    source = source.replace("( ", "(").replace(", )", ")")
    return (source if len(source) <= 60 else source[:57] + "...") or opcode
