"""What is evident about the values of a function's names: tensors, lists, dicts, strings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .sources import FUNCTIONS, Module, names_in

ALLOCATORS = ("ndarray", "zeros", "ones", "full", "empty_like", "zeros_like", "load")
_WINDOWS = (
    "ap", "reshape", "view", "slice", "select", "permute", "broadcast", "expand_dim", "squeeze_dim",
    "reshape_dim", "flatten_dims", "rearrange", "reinterpret_cast",
)  # fmt: skip
"""Methods of tensors that give tensors on the same memory."""

_TENSOR_ROLES = ("dst", "src", "data", "stationary", "moving", "data1", "data2")


@dataclass(frozen=True, slots=True)
class Kind:
    """What an expression evidently is.

    Attributes:
        name: ``tensor``, ``list``, ``dict`` or ``str``.
        dtype, buffer: of a tensor, by the vendor's name; empty when not evident.
    """

    name: str
    dtype: str = ""
    buffer: str = ""


class Scope:
    """The names of one function.

    Attributes:
        module, node: the function and where it stands.
        local: every name that it binds, those of nested functions included.
    """

    def __init__(self, module: Module, node: ast.AST) -> None:
        self.module = module
        self.node = node
        self.local = set(_bound(node))
        self._kinds: dict[str, Kind | None] = {}
        parameters = dict(self._parameters())
        for _ in range(3):  # a name may be used above its assignment, or in a nested block
            self._learnt = dict(parameters)
            for statement in ast.walk(node):
                self._note(statement)
            self._kinds = self._learnt

    def dotted(self, node: ast.expr) -> str | None:
        """The full name of an imported value, None for anything else."""
        base = node
        while isinstance(base, ast.Attribute):
            base = base.value
        if isinstance(base, ast.Name) and base.id in self.local:
            return None
        return self.module.dotted(node)

    def kind(self, node: ast.expr | None) -> Kind | None:
        """What an expression evidently is, None when it is not evident."""
        match node:
            case ast.Name(id=name):
                return self._kinds.get(name)
            case ast.List():
                return Kind("list")
            case ast.Dict():
                return Kind("dict")
            case ast.JoinedStr() | ast.Constant(value=str()):
                return Kind("str")
            case ast.Subscript(value=value):
                base = self.kind(value)
                return base if base and base.name == "tensor" else None
            case ast.IfExp(body=body, orelse=orelse):
                first, second = self.kind(body), self.kind(orelse)
                return first if first == second else None
            case ast.Call():
                return self._call(node)
        return None

    def is_tensor(self, node: ast.expr | None) -> bool:
        """Whether an expression is evidently a tensor."""
        kind = self.kind(node)
        return kind is not None and kind.name == "tensor"

    def _call(self, node: ast.Call) -> Kind | None:
        name = self.dotted(node.func)
        if name and name.startswith("nki.language."):
            if name.rpartition(".")[2] in ALLOCATORS:
                dtype = argument(node, "dtype", 1)
                return Kind("tensor", self._leaf(dtype), self._leaf(argument(node, "buffer", 2)))
            return None
        if isinstance(node.func, ast.Attribute) and node.func.attr in _WINDOWS:
            base = self.kind(node.func.value)
            if base and base.name == "tensor":
                changed = node.func.attr in ("view", "reinterpret_cast") or argument(node, "dtype")
                return replace(base, dtype="") if changed else base
        if isinstance(node.func, ast.Name) and node.func.id in ("list", "dict"):
            return Kind(node.func.id)
        return None

    def _leaf(self, node: ast.expr | None) -> str:
        """The last part of a vendor's name, the value of a string, else nothing."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        name = self.dotted(node) if node is not None else None
        return name.rpartition(".")[2] if name and name.startswith("nki.language.") else ""

    def _note(self, statement: ast.AST) -> None:
        """Take over what an assignment says of a name; contradictions leave nothing."""
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    self._learn(target.id, self.kind(statement.value))
                else:
                    for name in names_in(target):
                        self._learn(name, None)
        elif isinstance(statement, ast.AnnAssign | ast.NamedExpr):
            if isinstance(statement.target, ast.Name):
                self._learn(statement.target.id, self.kind(statement.value))
        elif isinstance(statement, ast.For):
            for name in names_in(statement.target):
                self._learn(name, None)

    def _learn(self, name: str, kind: Kind | None) -> None:
        known = self._learnt.setdefault(name, kind)
        if kind is not None and known is not None and known.name == kind.name:
            self._learnt[name] = Kind(
                kind.name,
                kind.dtype if kind.dtype == known.dtype else "",
                kind.buffer if kind.buffer == known.buffer else "",
            )
        elif known != kind:
            self._learnt[name] = None

    def _parameters(self) -> Iterator[tuple[str, Kind | None]]:
        """Parameters that are used as only tensors are."""
        if not isinstance(self.node, FUNCTIONS):
            return
        arguments = self.node.args
        parameters = {a.arg for a in (*arguments.args, *arguments.kwonlyargs)}
        used: dict[str, set[str]] = {}
        for node in ast.walk(self.node):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                used.setdefault(node.value.id, set()).add(node.attr)
            elif isinstance(node, ast.Call) and "nki.isa" in (self.dotted(node.func) or ""):
                for keyword in node.keywords:
                    if keyword.arg in _TENSOR_ROLES and isinstance(keyword.value, ast.Name):
                        used.setdefault(keyword.value.id, set()).add("ap")
        for name in parameters:
            if "ap" in used.get(name, ()) or {"shape", "dtype"} <= used.get(name, set()):
                yield name, Kind("tensor")


def argument(node: ast.Call, name: str, position: int | None = None) -> ast.expr | None:
    """The argument of a call by its keyword, or by its position."""
    for keyword in node.keywords:
        if keyword.arg == name:
            return keyword.value
    if position is not None and position < len(node.args):
        return node.args[position]
    return None


def _bound(root: ast.AST) -> Iterator[str]:
    """Names that a function binds: parameters, assignments, loop targets, nested definitions."""
    for node in ast.walk(root):
        match node:
            case ast.arg(arg=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                yield name
            case ast.ExceptHandler(name=str() as name):
                yield name
            case ast.alias(name=name, asname=alias):
                yield alias or name.split(".")[0]
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) if node is not root:
                yield name
