"""Source files of a kernel: their names, and which definitions a kernel reaches.

Everything is read from the text: nothing is imported or run.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(slots=True, eq=False)
class Module:
    """One parsed source file.

    Attributes:
        path, tree: the file and its syntax.
        imports: local name to full dotted name, from the module-level imports.
        definitions: module-level functions, classes and assigned constants by name.
    """

    path: Path
    tree: ast.Module
    imports: dict[str, str] = field(default_factory=dict)
    definitions: dict[str, Definition] = field(default_factory=dict)

    def dotted(self, node: ast.expr) -> str | None:
        """The full name that `a.b.c` stands for when `a` is imported, else None."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self.imports:
            return None
        return ".".join([self.imports[node.id], *reversed(parts)])


def parse(path: Path) -> Module:
    """The module in a file, read again when the file has changed.

    Raises:
        OSError, SyntaxError: it cannot be read or parsed.
    """
    status = path.stat()
    return _parse(path, status.st_mtime_ns, status.st_size)


@cache
def _parse(path: Path, _changed: int, _size: int) -> Module:
    module = Module(path, ast.parse(path.read_text(encoding="utf-8"), str(path)))
    enter(module, module.tree.body)
    return module


def enter(module: Module, body: list[ast.stmt]) -> None:
    """Add what the statements import, define and assign to the names of a module."""
    for node in _top_level(body):
        if isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.split(".")[0]
                module.imports[local] = alias.name if alias.asname else local
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                joint = "" if base.endswith(".") else "."
                module.imports[alias.asname or alias.name] = f"{base}{joint}{alias.name}"
        elif isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            module.definitions[node.name] = node
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                module.definitions |= dict.fromkeys(names_in(target), node)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            module.definitions[node.target.id] = node


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Module-level statements, those under if, try and with included."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            for part in ("body", "orelse", "finalbody"):
                yield from _top_level(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from _top_level(handler.body)


def names_in(target: ast.expr) -> Iterator[str]:
    """The plain names that an assignment binds."""
    if isinstance(target, ast.Name):
        yield target.id
    elif isinstance(target, ast.Starred):
        yield from names_in(target.value)
    elif isinstance(target, ast.Tuple | ast.List):
        for element in target.elts:
            yield from names_in(element)


@cache
def find_module(dotted: str, beside: Path) -> Path | None:
    """The source file of a project's module, or None for what is not followed.

    Looked for in every folder above `beside`, then on the import path. The standard library is
    never followed.
    """
    if dotted.startswith("."):
        level = len(dotted) - len(dotted.lstrip("."))
        roots = [beside.parents[level - 1]]
        dotted = dotted.lstrip(".")
    else:
        roots = [*beside.parents, *(Path(entry) for entry in sys.path if entry)]
    if is_foreign(dotted) or dotted.split(".")[0] in ("nki", "neuronxcc"):
        return None
    relative = Path(*dotted.split(".")) if dotted else Path()
    for root in roots:
        for candidate in (root / relative.with_suffix(".py"), root / relative / "__init__.py"):
            if dotted and candidate.is_file():
                return candidate
    return None


NOT_FOLLOWED = ("numpy", "torch", "jax", "ml_dtypes", "scipy", "einops", "torch_xla", "pytest")
"""Packages whose values no kernel can use, so that their sources need not be read."""


def is_foreign(dotted: str) -> bool:
    """Whether a full name belongs to the standard library or to a package of arrays."""
    return dotted.split(".")[0] in (*sys.stdlib_module_names, *NOT_FOLLOWED)


def resolve(module: Module, dotted: str) -> tuple[Module, str] | None:
    """The file and name behind an imported full name, when its source is followed."""
    owner, _, name = dotted.rpartition(".")
    if dotted.startswith(".") and not owner.strip("."):
        owner = dotted[: len(dotted) - len(dotted.lstrip("."))]
    path = find_module(owner, module.path) if owner else None
    if path is None:
        return None
    found = parse(path)
    if name in found.definitions:
        return found, name
    if name in found.imports and found.imports[name] != dotted:
        return resolve(found, found.imports[name])
    return None


def is_module(module: Module, dotted: str) -> bool:
    """Whether an imported full name is a module whose source is followed."""
    return find_module(dotted, module.path) is not None


def is_kernel(module: Module, node: ast.AST) -> bool:
    """Whether a function is decorated as a kernel."""
    return isinstance(node, FUNCTIONS) and any(
        is_jit(module, decorator) for decorator in node.decorator_list
    )


def is_jit(module: Module, decorator: ast.expr) -> bool:
    """Whether a decorator is ``nki.jit`` or a call of it."""
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    return module.dotted(target) in ("nki.jit", "nki.compiler.jit")
