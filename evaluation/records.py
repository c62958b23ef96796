"""The results record: validation by schema and by recomputation, and loading what passes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from evaluation.files import FileError, read_json
from evaluation.migration import MigrationError, migrate
from evaluation.plausibility import implausible
from evaluation.problems import Problem, is_deeper_than, shown
from evaluation.recomputation import recompute
from evaluation.uncertainty import statistics_follow_from_samples

SCHEMA_FILE = (
    Path(__file__).resolve().parent.parent
    / "workflow"
    / "schemas"
    / "benchmark_results.schema.json"
)
_DEEPEST = 32
"""Nesting beyond which a file is no record; it also keeps recursive libraries within bounds."""

MISSING = "required by the schema"
UNKNOWN = "unknown to the schema"
FORM = "form required by the schema"


class RecordError(ValueError):
    """A record that is not valid; `problems` lists everything wrong with it."""

    def __init__(self, path: Path | str, problems: list[Problem]) -> None:
        self.problems = problems
        lines = "".join(f"\n  {problem}" for problem in problems)
        super().__init__(f"{path}: {len(problems)} problem(s) in this record:{lines}")


@cache
def schema() -> dict[str, Any]:
    """Return the JSON Schema of the record."""
    content: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return content


def validate(record: Any) -> list[Problem]:
    """Return every problem of a record: its form by the schema, its figures by recomputation.

    Accepts any JSON value, of whatever origin; an empty list means that the record is valid.
    """
    if is_deeper_than(record, _DEEPEST):
        return [Problem("", "nesting", f"at most {_DEEPEST} levels", "more")]
    if not isinstance(record, dict):
        return [Problem("", "a record is an object", "a JSON object", shown(record))]
    problems = [*_schema_problems(record), *recompute(record), *implausible(record)]
    return [*problems, *statistics_follow_from_samples(record)]


def is_about_form(problem: Problem) -> bool:
    """Say whether a problem is one of the schema's: of form, not of a figure."""
    return problem.rule in (MISSING, UNKNOWN, FORM)


def validate_file(path: Path | str) -> list[Problem]:
    """Return every problem of a file that may not even be JSON; older records are migrated."""
    return read_record(path)[1]


def read_record(path: Path | str) -> tuple[Any, list[Problem], list[str]]:
    """Return a file's content, its problems, and the versions that it was migrated through.

    The content is in the present version where the file's is older, and None if there is none.
    """
    try:
        content = read_json(path)
    except FileError as error:
        expected = "a strict JSON value" if error.where else "a JSON object"
        problem = Problem(error.where, "the file is readable JSON", expected, str(error))
        return None, [problem], []
    if is_deeper_than(content, _DEEPEST):
        return content, validate(content), []
    try:
        record, passed = migrate(content)
    except MigrationError as error:
        return content, [Problem("schema_version", "a version known here", *error.both)], []
    return record, validate(record), passed


def load_record(path: Path | str) -> dict[str, Any]:
    """Return the record in a file, in the present version; RecordError unless it is valid."""
    record, problems, _ = read_record(path)
    if problems:
        raise RecordError(path, problems)
    valid: dict[str, Any] = record
    return valid


def _schema_problems(record: dict[str, Any]) -> Iterator[Problem]:
    errors = Draft202012Validator(schema()).iter_errors(record)
    for error in sorted(errors, key=lambda error: [str(step) for step in error.absolute_path]):
        yield from _from_schema(error)


def _from_schema(error: ValidationError) -> Iterator[Problem]:
    path = ""
    for step in error.absolute_path:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else str(step)
    prefix = f"{path}." if path else ""
    if error.validator == "required":
        # One error per missing key: the key is what the schema demands and the instance lacks.
        key = str(error.message).split("'")[1]
        yield Problem(f"{prefix}{key}", MISSING, "a value", "nothing")
    elif error.validator == "additionalProperties":
        schema_here: Any = error.schema
        instance: Any = error.instance
        for key in sorted(set(instance) - set(schema_here.get("properties", {}))):
            found = shown(instance[key])
            yield Problem(f"{prefix}{key}", UNKNOWN, "no such key", found)
    else:
        expected = f"{error.validator} {_in_words(error.validator_value)}"
        yield Problem(path, FORM, expected, shown(error.instance))


def _in_words(value: Any) -> str:
    """Return a schema keyword's value in few words."""
    return " or ".join(map(str, value)) if isinstance(value, list) else str(value)[:80]
