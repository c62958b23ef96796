"""The validator as a program: `python3 -m evaluation.validator FILE...`, on files of any origin.

It prints what is wrong with each results file, figures first and form after them, grouped by the
rule that finds it. Exit status: 0 all valid, 1 problems, 2 refused arguments.
"""

from __future__ import annotations

import argparse
import signal
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from evaluation.plausibility import remarks
from evaluation.problems import Problem
from evaluation.records import is_about_form, read_record

_WIDTH = 110


def report(name: str, problems: Sequence[Problem], notes: Sequence[str] = ()) -> str:
    """Return what is wrong with a file in lines for a terminal, one group per rule."""
    if not problems:
        lines = [f"{name}: valid"]
    else:
        rules = len({problem.rule for problem in problems})
        lines = [f"{name}: {len(problems)} problem(s) by {rules} rule(s)"]
    figures = [problem for problem in problems if not is_about_form(problem)]
    form = [problem for problem in problems if is_about_form(problem)]
    for title, found in (("figures", figures), ("form", form)):
        if found:
            lines += ["", f"{title}: {len(found)}", *_by_rule(found)]
    if notes:
        lines += ["", "remarks", *(line for note in notes for line in _wrapped(note, "  "))]
    return "\n".join(lines)


def examine(path: Path) -> tuple[list[Problem], list[str]]:
    """Return the problems of a file, which may be of any kind, and remarks on it."""
    record, problems, passed = read_record(path)
    notes = [f"migrated from version {' to '.join(passed)}"] if passed else []
    return problems, [*notes, *remarks(record)]


def _by_rule(problems: Sequence[Problem]) -> Iterator[str]:
    """Yield each rule once, and below it the problems; those that differ by place alone in one."""
    rules: dict[str, dict[str, list[str]]] = {}
    for problem in problems:
        text = f"expected {problem.expected}, found {problem.found}"
        places = rules.setdefault(problem.rule, {}).setdefault(text, [])
        places.append(problem.path or "the record")
    for rule, texts in rules.items():
        yield from _wrapped(f"{rule} ({sum(map(len, texts.values()))})", "  ")
        for text, places in texts.items():
            yield from _wrapped(f"{', '.join(places)}: {text}", "    ")


def _wrapped(text: str, indent: str) -> list[str]:
    lines = textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=f"{indent}  ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return lines or [indent]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the reports on the files named and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python3 -m evaluation.validator",
        description="Recomputes every derived figure of results files and lists what disagrees.",
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="results file, JSON")
    failed = False
    for number, path in enumerate(parser.parse_args(arguments).files):
        problems, notes = examine(path)
        failed = failed or bool(problems)
        print(("\n" if number else "") + report(str(path), problems, notes))
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever reads may stop early, as head does
    sys.exit(main())
