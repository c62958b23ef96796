"""Which files of the repository a program may import, read from the sources.

A workflow does not see imports: a rule whose program imports a module that was edited would keep
its old result. So every rule lists the import closure of its program among its inputs, and results
name the hashes of it. The closure is read from the syntax tree, nothing is imported: it follows
every import statement, those inside functions included, but not those under `if TYPE_CHECKING:`,
which never run. A module that is named by an expression (`import_module(f"...")`) is beyond it;
whoever asks names such modules too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

_DYNAMIC = ("import_module", "__import__")


def closure(root: Path, *programs: str, without: Iterable[str] = ()) -> list[str]:
    """Return the files that running `programs` may import, themselves included, sorted.

    `programs` and the result are paths relative to `root`. `without` names modules (dotted) that
    the programs do not load in the mode at hand: they, what lies inside them, and what is reached
    through them alone are left out. Raises FileNotFoundError for a program that does not exist and
    SyntaxError for a source that cannot be parsed, both naming the file.
    """
    return list(_closure(root, frozenset(programs), frozenset(without)))


def module_name(file: str) -> str:
    """Return the dotted name of the module that a file, relative to the root, is imported as."""
    return ".".join(Path(file).with_suffix("").parts)


@cache
def _closure(root: Path, programs: frozenset[str], cut: frozenset[str]) -> tuple[str, ...]:
    found: set[Path] = set()
    waiting = [root / program for program in programs]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        waiting += _enclosing_packages(file.parent, root)
        modules = (m for m in imported_modules(file, root) if cut.isdisjoint(_within(m)))
        waiting += [f for module in modules for f in _files_of(module, root)]
    return tuple(sorted(file.relative_to(root).as_posix() for file in found))


@cache
def imported_modules(file: Path, root: Path) -> frozenset[str]:
    """Return the dotted names that `file` imports, absolute, as far as they lie below `root`.

    `from a import b` gives `a` and, when b is a module rather than a name in one, `a.b`.
    """
    source = file.read_bytes()
    tree = ast.parse(source, filename=str(file))
    calls = any(name.encode() in source for name in _DYNAMIC)
    names = {name for node in _executed(tree, calls) for name in _names(node, file, root)}
    return frozenset(name for name in names if _files_of(name, root))


def _executed(tree: ast.AST, calls: bool) -> Iterator[ast.AST]:
    """Walk the tree, past the bodies of `if TYPE_CHECKING:` and, unless `calls`, expressions."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and _last_name(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        else:
            children = ast.iter_child_nodes(node)
            waiting += [c for c in children if calls or not isinstance(c, ast.expr)]


def _names(node: ast.AST, file: Path, root: Path) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _absolute(node, file, root)
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and _last_name(node.func) in _DYNAMIC:
        yield from (str(word.value) for word in node.args[:1] if isinstance(word, ast.Constant))


def _last_name(node: ast.AST) -> str:
    """Return `c` for the expressions `c` and `a.b.c`."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _absolute(node: ast.ImportFrom, file: Path, root: Path) -> str:
    """Return the module that `from ... import` names, without leading dots."""
    if not node.level:
        return node.module or ""
    package = file.relative_to(root).parent.parts
    package = package[: len(package) - (node.level - 1)]
    return ".".join((*package, *([node.module] if node.module else [])))


@cache
def _files_of(module: str, root: Path) -> tuple[Path, ...]:
    """Return the file of a module below `root`; none for a module from elsewhere or a mere name."""
    if not module or not all(part.isidentifier() for part in module.split(".")):
        return ()
    place = root.joinpath(*module.split("."))
    candidates = (place / "__init__.py", place.with_suffix(".py"))
    return tuple(file for file in candidates if file.is_file())[:1]


@cache
def _enclosing_packages(folder: Path, root: Path) -> tuple[Path, ...]:
    """Return the __init__.py of `folder` and those around it: an import from there runs them."""
    folders = [f for f in (folder, *folder.parents) if root in f.parents]
    return tuple(init for f in folders if (init := f / "__init__.py").is_file())


@cache
def _within(module: str) -> tuple[str, ...]:
    """Return the module's name and those of the packages around it."""
    parts = module.split(".")
    return tuple(".".join(parts[: i + 1]) for i in range(len(parts)))
