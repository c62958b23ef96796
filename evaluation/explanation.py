"""From a number of the report or the record to raw samples and code: `main.py --explain KEY`.

Each line of the walk is a key with its value; below it stand what it means (the schema), how it is
computed and by which function, and the keys that it is computed from, down to the result files with
their hashes: those that the record keeps against those that lie here now. A number is looked up in
the list of those that the report prints, which tells the keys.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from evaluation.derivations import Derivation, Source, derivation, names
from evaluation.files import FileError, read_json, sha256_file
from evaluation.printed import number_in, places_of
from evaluation.problems import expand, lookup, members, shown, walk
from evaluation.provenance import REPOSITORY
from evaluation.records import read_record, schema

RECORD = REPOSITORY / "results" / "benchmark_results.json"
_SHOWN_SAMPLES = 6
_REFERENCE = "#/$defs/"


class ExplanationError(ValueError):
    """A key that cannot be explained; the text names near ones."""


def explain_file(key: str, path: Path = RECORD, root: Path = REPOSITORY) -> str:
    """Return the explanation of a key of the record at `path`; result files lie below `root`.

    `key` may be a number, as the report below `root` on that record prints it. Raises
    ExplanationError for a file that is no valid record, for a key that it does not have, and for a
    number that the report does not print.
    """
    record, problems, passed = read_record(path)
    if problems:
        raise ExplanationError(
            f"{path}: {len(problems)} problem(s), the first: {problems[0]}. Nothing of an invalid "
            f"record is explained; python3 -m evaluation.validator {path} lists them"
        )
    head = [f"(migrated from version {' to '.join(passed)})"] if passed else []
    asked = number_in(key)
    lines = explain(record, key, root) if asked is None else _printed(record, asked, path, root)
    return "\n".join([*head, *lines])


def _printed(record: dict[str, Any], asked: Decimal, path: Path, root: Path) -> Iterator[str]:
    """Yield where the report prints a number, and the explanation of it if that is one thing."""
    try:
        found = places_of(asked, root, sha256_file(path))
    except LookupError as error:
        raise ExplanationError(str(error)) from None
    for one in found:
        yield f"{one.place}: {one.context}"
        yield f"  number   {one.printed}, line {one.line} of report/technical_report.tex"
        yield f"  how      {one.how}"
    if len({one.how for one in found}) > 1:
        yield "This number stands for several things: explain one of their keys."
        return
    if found[0].keys:
        yield ""
        yield from _walked(record, found[0].keys, root)


def explain(record: dict[str, Any], key: str, root: Path = REPOSITORY) -> Iterator[str]:
    """Yield the lines of the explanation of a key; ExplanationError if there is no such key."""
    key = key.strip()
    if lookup(record, key) is None or not key:
        reason = _absence(record, key)
        if reason is None:
            raise ExplanationError(_unknown(record, key))
        yield f"{key}: absent"
        yield f"  because  {reason}"
        yield f"  means    {meaning(key)}"
        return
    yield from _walked(record, [key], root)


def _walked(record: dict[str, Any], keys: Sequence[str], root: Path) -> Iterator[str]:
    """Yield the walk from keys that the record has, and what the record was made from."""
    walk_of_keys = _Walk(record, root)
    for key in keys:
        yield from walk_of_keys.lines(key)
    commit, dirty = (lookup(record, f"provenance.{name}") for name in ("commit", "dirty"))
    yield ""
    state = {True: " with uncommitted changes", False: "", None: ""}[dirty]
    made_at = f"commit {commit}{state}" if commit else "no commit"
    yield f"record   made by rule aggregate_results at {made_at}, {record['timestamp']}"
    yield f"config   sha256 {lookup(record, 'provenance.config_sha256')}"
    yield f"sources  {_sources(record, root)}"


class _Walk:
    """One explanation: every key is explained where it first occurs."""

    def __init__(self, record: dict[str, Any], root: Path) -> None:
        self._record, self._root = record, root
        self._seen: set[str] = set()

    def lines(self, key: str, indent: str = "") -> Iterator[str]:
        """Yield a key, what is known of it, and what it derives from, indented."""
        value = lookup(self._record, key)
        again = key in self._seen
        yield f"{indent}{key} = {_value(value)}{' (see above)' if again else ''}"
        if again:
            return
        self._seen.add(key)
        inner = f"{indent}  "
        basis = _basis(self._record, key)
        if basis:
            yield f"{inner}basis    {basis}"
        yield f"{inner}means    {meaning(key)}"
        found = derivation(key)
        if found is None or (isinstance(value, dict) and found[0].pattern.endswith("{rest...}")):
            yield from self._below(key, value, inner)
            return
        row, filled = found
        filled = names(self._record, filled)
        yield f"{inner}how      {row.how}"
        if row.code:
            yield f"{inner}code     {location(row.code)}"
        if row.source is not None:
            yield from self._source(row.source, filled, inner)
        for used in self._inputs(row, filled):
            yield from self.lines(used, f"{inner}  ")

    def _below(self, key: str, value: Any, indent: str) -> Iterator[str]:
        """Name the keys below an object or a list that is itself no figure."""
        names_below = list(value) if isinstance(value, dict) else members(self._record, key)
        if names_below:
            yield f"{indent}holds    {', '.join(map(str, names_below))}"
        else:
            yield f"{indent}how      collected by {location('evaluation.aggregation:_record')}"

    def _inputs(self, row: Derivation, filled: dict[str, str]) -> Iterator[str]:
        for pattern in row.inputs:
            place = pattern.format(**filled)
            if place.endswith(".*"):
                below = lookup(self._record, place[:-2])
                yield from (f"{place[:-1]}{name}" for name in below or ())
                continue
            for path in expand(self._record, place):
                if lookup(self._record, path) is not None:
                    yield path

    def _source(self, source: Source, filled: dict[str, str], indent: str) -> Iterator[str]:
        file, key = source.file.format(**filled), source.key.format(**filled)
        yield f"{indent}file     {file}, {key}"
        yield f"{indent}rule     {source.rule.format(**filled)}"
        kept = (lookup(self._record, "provenance.results") or {}).get(file)
        yield f"{indent}sha256   {kept or 'not kept by this record'}"
        path = self._root / file
        if not path.is_file():
            yield f"{indent}here     no such file now"
            return
        present = sha256_file(path)
        if kept is not None and present != kept:
            yield f"{indent}here     changed since: sha256 {present}"
            return
        try:
            yield f"{indent}here     {_value(lookup(read_json(path), key))}"
        except FileError as error:
            yield f"{indent}here     {error}"


def meaning(key: str) -> str:
    """Return what the schema says of a key, or of the nearest one around it that it describes."""
    part: dict[str, Any] = schema()
    described = str(part["description"])
    for step in key.replace("[", ".[").split("."):
        if "$ref" in part:
            part = schema()["$defs"][part["$ref"].removeprefix(_REFERENCE)]
        if step.startswith("["):
            part = part.get("items", {})
        else:
            below = part.get("properties", {}).get(step, part.get("additionalProperties"))
            part = below if isinstance(below, dict) else {}
        if not part:
            break
        reference = schema()["$defs"].get(part.get("$ref", "").removeprefix(_REFERENCE), {})
        described = str(part.get("description") or reference.get("description") or described)
    return described


def location(code: str) -> str:
    """Return "file:line name" of a function or class given as "module:name"."""
    module_name, _, name = code.partition(":")
    module = importlib.import_module(module_name)
    file = Path(inspect.getfile(module)).resolve().relative_to(REPOSITORY).as_posix()
    thing = getattr(module, name)
    if inspect.isfunction(thing) or inspect.isclass(thing):
        return f"{file}:{inspect.getsourcelines(thing)[1]} {name}"
    return f"{file} {name}"


def _basis(record: Any, key: str) -> str | None:
    """Return the basis that the nearest object around a key states."""
    place = key
    while place:
        place = place.rpartition("[")[0] if place.endswith("]") else place.rpartition(".")[0]
        basis = lookup(record, f"{place}.basis") if place else None
        if isinstance(basis, str):
            return f"{basis} ({place}.basis)"
    return None


def _sources(record: Any, root: Path) -> str:
    """Say whether the kernels and models that ran are those that lie here."""
    kept = {
        file: sha256
        for part in ("kernels", "model_code")
        for file, sha256 in (lookup(record, f"provenance.{part}") or {}).items()
    }
    changed = [
        file
        for file, sha256 in sorted(kept.items())
        if not (root / file).is_file() or sha256_file(root / file) != sha256
    ]
    state = "all as they are here"
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        state = f"changed since: {', '.join(changed[:3])}{more}"
    return f"{len(kept)} files of kernels and models, {state}"


def _value(value: Any) -> str:
    if isinstance(value, list) and value and not isinstance(value[0], (dict, list)):
        words = ", ".join(map(shown, value[:_SHOWN_SAMPLES]))
        return f"[{words}{', ...' if len(value) > _SHOWN_SAMPLES else ''}] ({len(value)})"
    return shown(value)


def _absence(record: Any, key: str) -> str | None:
    """Return why the record lists a key as absent; None if it does not."""
    for entry in record.get("absent", []):
        if key == entry["key"] or key in expand(record, entry["key"]):
            return str(entry["reason"])
    return None


def _unknown(record: Any, key: str) -> str:
    known = [path for path, _ in walk(record) if path]
    near = difflib.get_close_matches(key, known, n=4, cutoff=0.5)
    last = key.rsplit(".", 1)[-1]
    near += [path for path in known if path.rsplit(".", 1)[-1] == last and path not in near][:4]
    hint = f"near it: {', '.join(near)}" if near else f"the record holds: {', '.join(record)}"
    return f"the record has no key {key!r}; {hint}"
