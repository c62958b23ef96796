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
from collections.abc import Collection, Iterable, Iterator
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
    cut = frozenset(without)
    found: set[Path] = set()
    waiting = [root / program for program in programs]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        packages = _enclosing_packages(file, root)
        modules = {m for m in imported_modules(file, root) if not _is_within(m, cut)}
        waiting += packages
        waiting += [f for module in modules for f in _files_of(module, root)]
    return sorted(file.relative_to(root).as_posix() for file in found)


def module_name(file: str) -> str:
    """Return the dotted name of the module that a file, relative to the root, is imported as."""
    return ".".join(Path(file).with_suffix("").parts)


@cache
def imported_modules(file: Path, root: Path) -> frozenset[str]:
    """Return the dotted names that `file` imports, absolute, as far as they lie below `root`.

    `from a import b` gives `a` and, when b is a module rather than a name in one, `a.b`.
    """
    tree = ast.parse(file.read_bytes(), filename=str(file))
    names = {name for node in _executed(tree) for name in _names(node, file, root)}
    return frozenset(name for name in names if _files_of(name, root))


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk the tree like ast.walk, past the bodies of `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and _last_name(node.test) == "TYPE_CHECKING":
            for other in node.orelse:
                yield other
                yield from _executed(other)
        else:
            yield node
            yield from _executed(node)


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


def _enclosing_packages(file: Path, root: Path) -> list[Path]:
    """Return the __init__.py of every package around `file`: importing it runs them."""
    folders = [folder for folder in file.parents if root in folder.parents]
    return [init for folder in folders if (init := folder / "__init__.py").is_file()]


def _is_within(module: str, names: Collection[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)
