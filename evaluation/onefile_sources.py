"""The modules of which the leaderboard's file is made, and what each one's top level binds."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from evaluation import scopes
from evaluation.scopes import Imported, Reference

SPECS = "kernels.specs"
WIDTH = 100
_PACKAGES = ("model", "kernels")
_GENERATED = "kernels/specs (reduced to what the model asks for)"


class OneFileError(RuntimeError):
    """Sources that cannot be laid into one file; the message says what to change."""


@dataclass
class Module:
    """A module of this project: its source, and what its top level binds."""

    name: str
    file: str
    source: bytes
    tree: ast.Module = field(init=False)

    def __post_init__(self) -> None:
        self.tree = ast.parse(self.source, filename=self.file)

    @property
    def stem(self) -> str:
        """The last part of its dotted name."""
        return self.name.rpartition(".")[2]

    @cached_property
    def bound(self) -> dict[str, Imported | None]:
        """Names of the top level; what is imported from this project with its origin."""
        return scopes.bound_names(self.tree.body, resolve)

    @cached_property
    def outside(self) -> dict[str, str]:
        """Names that the top level imports from elsewhere, each with what it is."""
        found = {}
        for node in self.tree.body:
            if isinstance(node, (ast.Import, ast.ImportFrom)) and not resolve(node):
                module = node.module if isinstance(node, ast.ImportFrom) else ""
                for alias in node.names:
                    bound = alias.asname or alias.name.split(".")[0]
                    found[bound] = f"{module}:{alias.name}:{alias.asname or ''}"
        return found

    @cached_property
    def references(self) -> list[Reference]:
        """What of it is no plain local; see `evaluation.scopes`."""
        return scopes.references(self.tree, resolve)

    def defines(self, name: str) -> bool:
        """Whether the module itself defines a name, not an import."""
        return name in self.bound and self.bound[name] is None and name not in self.outside


def collect(root: Path, entry: str) -> list[Module]:
    """Return the modules, each behind those that it imports; the entry is the last."""
    found: dict[str, Module] = {}
    order: list[Module] = []

    def add(name: str) -> None:
        if name in found:
            return
        file = root.joinpath(*name.split(".")).with_suffix(".py")
        if name != SPECS and not file.is_file():
            raise OneFileError(f"{name}: there is no {file}")
        source = reduced_specs() if name == SPECS else file.read_bytes()
        shown = _GENERATED if name == SPECS else file.relative_to(root).as_posix()
        found[name] = module = Module(name, shown, source)
        for node in ast.walk(module.tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                for imported in resolve(node).values():
                    add(imported.module)
        order.append(module)

    add(entry)
    return order


def resolve(node: ast.stmt) -> dict[str, Imported]:
    """Return what an import statement binds of this project; empty for one from elsewhere."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.split(".")[0] in _PACKAGES and alias.asname is None:
                raise OneFileError(
                    f"line {node.lineno}: `import {alias.name}` uses the module as a value; write "
                    f"`from ... import ...`"
                )
        ours = [a for a in node.names if a.name.split(".")[0] in _PACKAGES]
        return {str(a.asname): Imported(a.name) for a in ours}
    if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] not in _PACKAGES:
        return {}
    module = str(node.module)
    if any(alias.name == "*" for alias in node.names):
        raise OneFileError(f"line {node.lineno}: `from {module} import *` hides what is meant")
    if "." in module:
        return {a.asname or a.name: Imported(module, a.name) for a in node.names}
    return {a.asname or a.name: Imported(f"{module}.{a.name}") for a in node.names}


def reduced_specs() -> bytes:
    """Return the table of kernels that stands in for the package kernels/specs."""
    from kernels.specs import SPECS as table

    modules: dict[str, list[str]] = {}
    for spec in table.values():
        modules.setdefault(f"kernels.{Path(spec.file).stem}", []).append(spec.function)
    imports = [line for m in sorted(modules) for line in from_lines(m, sorted(set(modules[m])))]
    rows = [
        f"    {spec.name!r}: KernelSpec({spec.name!r}, {spec.dtypes!r}, {spec.function}),"
        for spec in table.values()
    ]
    lines = [
        '"""The kernels by name."""',
        "from collections.abc import Callable",
        "from typing import Any, NamedTuple",
        *imports,
        "",
        "",
        "class KernelSpec(NamedTuple):",
        '    """A kernel: its name, the dtypes of its main argument, and its function."""',
        "",
        "    name: str",
        "    dtypes: tuple[str, ...]",
        "    kernel: Callable[..., Any]",
        "",
        "    def load(self) -> Callable[..., Any]:",
        '        """The kernel itself."""',
        "        return self.kernel",
        "",
        "",
        "SPECS: dict[str, KernelSpec] = {",
        *rows,
        "}",
    ]
    return ("\n".join(lines) + "\n").encode()


def from_lines(module: str, names: Sequence[str]) -> list[str]:
    """Return the lines of an import of names from a module."""
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= WIDTH:
        return [line]
    return [f"from {module} import (", *(f"    {name}," for name in names), ")"]
