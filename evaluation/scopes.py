"""Which module-level name each identifier of a source means, by Python's scoping rules.

What bundling needs of it: every reference to something defined at a module's top level, or imported
there or inside a function, with the names that are local where the reference stands.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


@dataclass(frozen=True)
class Imported:
    """What an import binds: a module (`name` is ""), or a name in one."""

    module: str
    name: str = ""


@dataclass(frozen=True)
class Reference:
    """One use, or definition, of a name that is no plain local.

    `binding` is what an import inside a function bound it to, None for a name of the module's top
    level (or a builtin). `attribute` is the node around it in `alias.name`. `hidden` are the names
    that are local there, `text` the f-string that it stands in.
    """

    node: ast.AST
    name: str
    binding: Imported | None
    attribute: ast.Attribute | None
    hidden: frozenset[str]
    text: ast.JoinedStr | None


Scope = Mapping[str, Imported | None]
"""Names that a function or class binds; None for a plain local."""

Resolve = Callable[[ast.stmt], Mapping[str, Imported]]
"""Returns what an import statement binds, as far as the bundle holds it."""


def bound_names(body: Iterable[ast.AST], resolve: Resolve) -> dict[str, Imported | None]:
    """Return the names that statements bind in their own scope, nested scopes left out."""
    bound: dict[str, Imported | None] = {}
    outer: set[str] = set()
    for node in _own_nodes(body):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            own = resolve(node)
            for alias in node.names:
                name = alias.asname or alias.name.split(".")[0]
                bound[name] = own.get(name)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            outer |= set(node.names)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound[node.name] = None
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound[node.id] = None
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            bound[node.name] = None
    return {name: binding for name, binding in bound.items() if name not in outer}


def _own_nodes(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Walk nodes without entering functions, classes and comprehensions."""
    for node in body:
        yield node
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef, *_COMPREHENSIONS)):
            continue
        yield from _own_nodes(ast.iter_child_nodes(node))


def references(tree: ast.Module, resolve: Resolve) -> list[Reference]:
    """Return every reference of a module that is no plain local, in source order by scope."""
    walker = _Walker(resolve)
    for statement in tree.body:
        walker.visit(statement)
    return walker.found


class _Walker(ast.NodeVisitor):
    """Visits a module with the stack of scopes around each node."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._scopes: list[Scope] = []
        self._text: ast.JoinedStr | None = None
        self.found: list[Reference] = []

    def visit_Name(self, node: ast.Name) -> None:
        self._note(node, node.id, None)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name):
            self._note(node.value, node.value.id, node)
        else:
            self.visit(node.value)

    def visit_Global(self, node: ast.Global) -> None:
        for name in node.names:
            self.found.append(Reference(node, name, None, None, frozenset(), None))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        around, self._text = self._text, self._text or node
        self.generic_visit(node)
        self._text = around

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_function(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._outside(node.args)
        with_arguments: dict[str, Imported | None] = dict.fromkeys(_arguments(node.args))
        self._inside(with_arguments, [node.body])

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._note(node, node.name, None)
        for outside in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(outside)
        # A class's own names are not seen from its methods; its body reads them rarely, and a
        # field that has the name of something global would be read as that.
        body = bound_names(node.body, self._resolve)
        for statement in node.body:
            if isinstance(statement, _FUNCTIONS):
                self._visit_function(statement, is_method=True)
            else:
                self._inside(body, [statement])

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self._visit_comprehension(node)

    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp  # type: ignore[assignment]

    def _visit_comprehension(self, node: Any) -> None:
        targets = [generator.target for generator in node.generators]
        bound = bound_names(targets, self._resolve)
        self.visit(node.generators[0].iter)
        parts = [part for g in node.generators for part in (g.target, *g.ifs)]
        parts += [generator.iter for generator in node.generators[1:]]
        results = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        self._inside(bound, [*parts, *results])

    def _visit_function(self, node: Any, is_method: bool = False) -> None:
        if not is_method:
            self._note(node, node.name, None)
        for decorator in node.decorator_list:
            self.visit(decorator)
        self._outside(node.args)
        if node.returns is not None:
            self.visit(node.returns)
        bound = bound_names(node.body, self._resolve)
        self._inside({**dict.fromkeys(_arguments(node.args)), **bound}, node.body)

    def _outside(self, arguments: ast.arguments) -> None:
        """Visit what of a function's arguments is evaluated around it: defaults, annotations."""
        for default in (*arguments.defaults, *arguments.kw_defaults):
            if default is not None:
                self.visit(default)
        for argument in _all_arguments(arguments):
            if argument.annotation is not None:
                self.visit(argument.annotation)

    def _inside(self, scope: Scope, nodes: Iterable[ast.AST]) -> None:
        self._scopes.append(scope)
        for node in nodes:
            self.visit(node)
        self._scopes.pop()

    def _note(self, node: ast.AST, name: str, attribute: ast.Attribute | None) -> None:
        binding = None
        for scope in reversed(self._scopes):
            if name in scope:
                binding = scope[name]
                if binding is None:
                    return  # a plain local
                break
        hidden = frozenset(n for scope in self._scopes for n, bound in scope.items() if not bound)
        self.found.append(Reference(node, name, binding, attribute, hidden, self._text))


def _arguments(arguments: ast.arguments) -> Iterator[str]:
    yield from (argument.arg for argument in _all_arguments(arguments))


def _all_arguments(arguments: ast.arguments) -> Iterator[ast.arg]:
    yield from (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    yield from (a for a in (arguments.vararg, arguments.kwarg) if a is not None)
