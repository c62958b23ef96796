"""One file for the leaderboard: the model with its kernels, and all that they import from here.

The modules are laid one behind the other, in the order in which they import each other. Comments
and docstrings stay, since edits are made in the text, at the places that the syntax tree names:
imports among the modules go, `alias.name` becomes `name`, and a name that two modules define, or
that would be hidden where it is used, gets its module before it. Equal sources give equal bytes.

`kernels/specs` describes tests, with their oracles; in its place stands a table of what a
dispatcher asks for: each kernel's function and dtypes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.files import sha256_bytes
from evaluation.onefile_sources import (
    WIDTH,
    Module,
    OneFileError,
    collect,
    from_lines,
    resolve,
)
from evaluation.scopes import Imported, Reference

__all__ = ["ENTRY", "FILE_NAME", "OneFile", "OneFileError", "Part", "bundle"]

ENTRY = "model.qwen_with_nki"
FILE_NAME = "qwen_with_nki.py"


@dataclass(frozen=True)
class Part:
    """One module's place in the file: its path, its hash, and its lines, counted from 1."""

    file: str
    sha256: str
    first_line: int
    last_line: int


@dataclass(frozen=True)
class OneFile:
    """The text of the file, and its source map."""

    text: str
    parts: tuple[Part, ...]


def bundle(root: Path, commit: str | None, entry: str = ENTRY) -> OneFile:
    """Return the module `entry` below `root` and everything that it imports there, as one file.

    `commit` is stated in the header. OneFileError for what cannot be laid together without a
    change of meaning: star imports, modules used as values, one name for two outside things.
    """
    modules = collect(root, entry)
    names = _final_names(modules, entry)
    bodies = [_Edits(module, modules, names).body(module.name == entry) for module in modules]
    imports = _import_lines(modules)
    docstring = f'"""{_docstring(modules[-1])}"""'.splitlines()
    top = [*docstring, "", "from __future__ import annotations", "", *imports]
    parts = _place(modules, bodies, first=_header_lines(modules) + len(top) + 1)
    header = _header(parts, commit)
    sections = [f"\n\n{_rule(part.file)}\n{body}" for part, body in zip(parts, bodies, strict=True)]
    text = "\n".join([*header, *top]) + "\n" + "".join(sections)
    compile(text, FILE_NAME, "exec")  # a slip here must not reach anyone
    return OneFile(text, parts)


# Names ----------------------------------------------------------------------------------------

Key = tuple[str, str]
"""(module, name) of a definition."""


def _final_names(modules: Sequence[Module], entry: str) -> dict[Key, str]:
    """Return the name that each definition has in the file: its own, unless that would clash."""
    taken = {name for module in modules for name in re.findall(r"\w+", module.source.decode())}
    meant = _meanings(modules)
    captured = _captured(modules)
    final: dict[Key, str] = {}
    for module in modules:
        for name in sorted(module.bound):
            if not module.defines(name):
                continue
            key = (module.name, name)
            clash = len(meant[name]) > 1 or key in captured
            if not clash or module.name == entry:
                final[key] = name
            else:
                final[key] = _free_name(module.stem, name, taken)
                taken.add(final[key])
    _require_clear(meant, entry, captured)
    return final


def _meanings(modules: Sequence[Module]) -> dict[str, set[str]]:
    """Return, for each name at some top level, all the things that it means in some module."""
    meant: dict[str, set[str]] = {}
    for module in modules:
        for name in module.bound:
            if module.defines(name):
                meant.setdefault(name, set()).add(f"{module.name}.{name}")
            elif name in module.outside:
                meant.setdefault(name, set()).add(f"outside {module.outside[name]}")
    for module in modules:
        for reference in module.references:
            name = reference.name
            if name in meant and name not in module.bound and reference.binding is None:
                meant[name].add("the builtin")
    return meant


def _captured(modules: Sequence[Module]) -> set[Key]:
    """Return the definitions that are used, from another name, where their own name is local."""
    by_name = {module.name: module for module in modules}
    found = set()
    for module in modules:
        for reference in module.references:
            key = _target(reference, module, by_name)
            if key is not None and key[1] in reference.hidden:
                found.add(key)
    return found


def _require_clear(meant: Mapping[str, set[str]], entry: str, captured: set[Key]) -> None:
    for name, things in sorted(meant.items()):
        outside = sorted(thing for thing in things if thing.startswith("outside "))
        if len(outside) > 1:
            raise OneFileError(f"{name} is imported as {' and as '.join(outside)}: use one name")
        if f"{entry}.{name}" in things and (outside or "the builtin" in things):
            raise OneFileError(
                f"{entry} defines {name}, which in another module is something from outside: "
                "rename it"
            )
    if hidden := sorted(name for module, name in captured if module == entry):
        raise OneFileError(f"{entry}: {', '.join(hidden)} is hidden by a local name: rename that")


def _free_name(stem: str, name: str, taken: set[str]) -> str:
    bare = name.lstrip("_")
    underscores = name[: len(name) - len(bare)]
    candidate, number = f"{underscores}{stem}_{bare}", 2
    while candidate in taken:
        candidate, number = f"{underscores}{stem}_{bare}_{number}", number + 1
    return candidate


def _target(reference: Reference, module: Module, modules: Mapping[str, Module]) -> Key | None:
    """Return the definition that a reference means; None for something from outside.

    OneFileError for a module that is used as a value, and for a name that a module does not have.
    """
    name, binding = reference.name, reference.binding or module.bound.get(reference.name)
    if binding is None:
        return (module.name, name) if module.defines(name) else None
    if not binding.name:
        if reference.attribute is None:
            raise OneFileError(
                f"{module.file}:{getattr(reference.node, 'lineno', '?')}: the module {name} is "
                "used as a value; use its names"
            )
        binding = Imported(binding.module, reference.attribute.attr)
    while True:  # through modules that only hand a name on
        origin = modules[binding.module]
        if origin.defines(binding.name):
            return (origin.name, binding.name)
        onward = origin.bound.get(binding.name)
        if onward is None or not onward.name:
            raise OneFileError(
                f"{module.file}: {binding.name} is not defined in {origin.file}; import it from "
                "where it is"
            )
        binding = onward


# Text -----------------------------------------------------------------------------------------


class _Edits:
    """The edits that turn a module's source into its part of the file."""

    def __init__(self, module: Module, modules: Sequence[Module], names: Mapping[Key, str]) -> None:
        self._module = module
        self._by_name = {m.name: m for m in modules}
        self._names = names
        lines = module.source.splitlines(keepends=True)
        self._starts = [sum(len(line) for line in lines[:n]) for n in range(len(lines) + 1)]
        self._edits: dict[tuple[int, int], bytes] = {}

    def body(self, is_entry: bool) -> str:
        """Return the module's text without its imports, in the file's names."""
        self._drop_statements(self._module.tree.body, is_entry, top=True)
        for reference in self._module.references:
            key = _target(reference, self._module, self._by_name)
            if key is not None:
                self._rename(reference, self._names[key])
        text = self._module.source
        for (start, end), new in sorted(self._edits.items(), reverse=True):
            text = text[:start] + new + text[end:]
        return re.sub(r"\n{4,}", "\n\n\n", text.decode().strip("\n")) + "\n"

    def _drop_statements(self, body: Sequence[ast.stmt], is_entry: bool, top: bool) -> None:
        for node in body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                if top or resolve(node):
                    self._drop(node, keep_block=not top)
            elif top and not is_entry and _assigns(node, "__all__"):
                self._drop(node, keep_block=False)
            elif top and is_entry and node is body[0] and _is_docstring(node):
                self._drop(node, keep_block=False)  # it stands at the top of the file
            for name in ("body", "orelse", "finalbody", "handlers"):
                inner = getattr(node, name, [])
                if isinstance(inner, list):
                    self._drop_statements(inner, is_entry, top=False)

    def _drop(self, node: ast.stmt, keep_block: bool) -> None:
        start, end = self._span(node)
        if not keep_block and self._module.source[end : end + 1] == b"\n":
            end += 1
        self._edits[start, end] = b"pass" if keep_block else b""

    def _rename(self, reference: Reference, new: str) -> None:
        """Replace a name, or all of `alias.name` where the alias is a module, by a name."""
        node, old = reference.node, reference.name
        binding = reference.binding or self._module.bound.get(old)
        if binding is not None and not binding.name and reference.attribute is not None:
            node, old = reference.attribute, f"{old}.{reference.attribute.attr}"
        if old == new:
            return
        start, end = self._span(node)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Global)):
            start, end = self._word(start, end, old)
        elif self._module.source[start:end] != old.encode():
            if reference.text is None:
                raise OneFileError(f"{self._module.file}: write {old} without a break in it")
            start, end = self._word(*self._span(reference.text), old, only=True)
        self._edits[start, end] = new.encode()

    def _word(self, start: int, end: int, word: str, only: bool = False) -> tuple[int, int]:
        """Return where a word stands within a span: the first place, or the only one.

        Before Python 3.12 the places of names inside an f-string are not to be relied on.
        """
        pattern = rb"(?<![\w.])" + re.escape(word.encode()) + rb"(?!\w)"
        places = [match.span() for match in re.finditer(pattern, self._module.source[start:end])]
        if not places or (only and len(places) > 1):
            raise OneFileError(
                f"{self._module.file}: {word} occurs {len(places)} times in one f-string, where it "
                "must be renamed; assign it to a variable first"
            )
        return start + places[0][0], start + places[0][1]

    def _span(self, node: Any) -> tuple[int, int]:
        """Return the byte offsets of a node."""
        return (
            self._starts[node.lineno - 1] + node.col_offset,
            self._starts[node.end_lineno - 1] + node.end_col_offset,
        )


def _assigns(node: ast.stmt, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _docstring(module: Module) -> str:
    return ast.get_docstring(module.tree, clean=False) or "The model with NKI kernels."


def _import_lines(modules: Sequence[Module]) -> list[str]:
    """Return the imports from outside that the modules' top levels make, each once, sorted."""
    plain: set[str] = set()
    members: dict[str, set[str]] = {}
    for module in modules:
        for described in module.outside.values():
            origin, name, alias = described.split(":")
            shown = f"{name} as {alias}" if alias else name
            if origin == "__future__":
                continue
            if origin:
                members.setdefault(origin, set()).add(shown)
            else:
                plain.add(shown)
    lines = [f"import {name}" for name in sorted(plain)]
    return lines + [line for m in sorted(members) for line in from_lines(m, sorted(members[m]))]


def _rule(file: str) -> str:
    return f"# ---- {file} ".ljust(WIDTH, "-")


def _place(modules: Sequence[Module], bodies: Sequence[str], first: int) -> tuple[Part, ...]:
    """Return the source map: where each body lies when `first` is the line behind the imports."""
    parts, line = [], first
    for module, body in zip(modules, bodies, strict=True):
        begins = line + 3  # two empty lines and the rule
        line = begins + body.count("\n")
        parts.append(Part(module.file, sha256_bytes(module.source), begins, line - 1))
    return tuple(parts)


def _header_lines(modules: Sequence[Module]) -> int:
    return 5 + len(modules)


def _header(parts: Sequence[Part], commit: str | None) -> list[str]:
    """Return the comment on top: what this is, where it comes from, and the source map."""
    rows = [
        f"# {part.first_line:>5}-{part.last_line:<5} {part.sha256[:16]}  {part.file}"
        for part in parts
    ]
    return [
        "# One file for the leaderboard, made by `snakemake results/leaderboard/qwen_with_nki.py`.",
        "# Edit the sources below, not this file.",
        f"# Commit: {commit or 'none'}",
        "#",
        "# Lines        SHA-256 (first 16)  source",
        *rows,
    ]
