r"""Every number that the report prints, with its place and with what it was computed from.

While the template is rendered, a number is preceded by a note in control characters, which no text
of a record can hold (`report.tex.escape` refuses them). `separate` takes the notes out of the
source and tells where each number stands.
"""

from __future__ import annotations

import json
import re
from typing import Any

from evaluation.printed import Printed
from report.trace import how, keys

_BEGIN, _END = "\x02", "\x03"
_NOTE = re.compile(f"{_BEGIN}([^{_END}]*){_END}")
_FLOAT = re.compile(r"\\begin\{(table|figure)\*?\}.*?\\end\{\1\*?\}", re.S)
_HEAD = re.compile(r"\\(section|kernelhead|begin)\{([^}]*)\}")
_COMMAND = re.compile(r"\\[A-Za-z]+\*?(\[[^]]*\])?|\\.|[{}$~]")
_BEFORE, _AFTER = 8, 3
"""Words of context."""


def note(value: Any, printed: str) -> str:
    """Return the note that stands before a number in the source, with its digits as printed."""
    content = json.dumps([printed, how(value), keys(value)], ensure_ascii=False)
    return f"{_BEGIN}{content}{_END}"


def without_notes(source: str) -> str:
    """Return LaTeX source as TeX is to see it."""
    return _NOTE.sub("", source)


def separate(source: str) -> tuple[str, list[Printed]]:
    """Return the source without its notes, and the numbers that they told of, in order."""
    clean, found, removed = without_notes(source), [], 0
    places = _Places(clean)
    for match in _NOTE.finditer(source):
        printed, computed, used = json.loads(match.group(1))
        at = match.start() - removed
        place = places.name(at), places.context(at), places.line(at)
        found.append(Printed(printed, *place, computed, used))
        removed += len(match.group())
    return clean, found


class _Places:
    """Names of the places of a LaTeX source."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._floats: list[tuple[int, int, str]] = []
        seen = {"table": 0, "figure": 0}
        for match in _FLOAT.finditer(source):
            kind = match.group(1)
            seen[kind] += 1
            self._floats.append((match.start(), match.end(), f"{kind.capitalize()} {seen[kind]}"))
        self._heads = [(m.start(), m.group(1), m.group(2)) for m in _HEAD.finditer(source)]

    def line(self, at: int) -> int:
        return self._source.count("\n", 0, at) + 1

    def name(self, at: int) -> str:
        for begin, end, name in self._floats:
            if begin <= at < end:
                return name
        section = paragraph = ""
        for begin, kind, title in self._heads:
            if begin > at:
                break
            if kind == "kernelhead":
                paragraph = title
            elif kind == "section" or title == "abstract":
                section, paragraph = title.capitalize() if title == "abstract" else title, ""
        return ", ".join(filter(None, (section, paragraph)))

    def context(self, at: int) -> str:
        """Return the head of a table's row, or the words around a number."""
        begin = self._source.rfind("\n", 0, at) + 1
        end = (self._source + "\n").find("\n", at)
        line = self._source[begin:end]
        if self.name(at).startswith("Table") and "&" in line:
            return _words(line.partition("&")[0]) or _words(line)
        before = _words(self._source[max(at - 20 * _BEFORE, 0) : at]).split()[-_BEFORE:]
        after = _words(self._source[at : at + 20 * _AFTER]).split()[: _AFTER + 1]
        return " ".join([*before, *after])


def _words(source: str) -> str:
    return " ".join(_COMMAND.sub(" ", source.replace("{}", "")).split())
