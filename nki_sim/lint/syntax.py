"""Rules about Python's own statements and expressions, and about evident tensors in them."""

from __future__ import annotations

import ast
import builtins

from .calls import Calls
from .evidence import Scope
from .finding import Report
from .signatures import TENSOR_ATTRIBUTES, is_vendor
from .sources import Module, is_foreign, is_module
from .versions import between

_FORBIDDEN: dict[type[ast.AST], str] = {
    ast.ListComp: "comprehension",
    ast.SetComp: "comprehension",
    ast.DictComp: "comprehension",
    ast.GeneratorExp: "comprehension",
    ast.Lambda: "lambda",
    ast.NamedExpr: "walrus",
    ast.Starred: "starred",
    ast.Try: "exceptions",
    ast.Raise: "exceptions",
    ast.Global: "scope",
    ast.Nonlocal: "scope",
    ast.Delete: "scope",
    ast.Import: "import",
    ast.ImportFrom: "import",
    ast.Yield: "generator",
    ast.YieldFrom: "generator",
    ast.Await: "generator",
    ast.AsyncFor: "generator",
    ast.AsyncWith: "generator",
    ast.AsyncFunctionDef: "generator",
    ast.ClassDef: "nested-class",
    ast.Match: "match",
    ast.Set: "literal",
}
"""Kinds of syntax that are refused wherever they stand, and the rule that says so."""

if hasattr(ast, "TryStar"):  # Python 3.11
    _FORBIDDEN[ast.TryStar] = "exceptions"

BUILTINS = frozenset(
    {
        "isinstance", "type", "slice", "print", "min", "max", "abs", "str", "bool", "int", "float",
        "divmod", "tuple", "list", "dict", "len", "range",
    }
)  # fmt: skip
"""The built-in functions that the front end knows."""

MATH = frozenset({"ceil", "floor", "gcd", "log2", "log10", "pow", "sqrt", "pi", "e", "inf", "nan"})
METHODS = {
    "list": frozenset(
        {"append", "clear", "copy", "count", "extend", "index", "pop", "remove", "reverse"}
    ),
    "dict": frozenset({"clear", "copy", "get", "items", "keys", "pop", "setdefault", "values"}),
}
"""Methods of containers that the front end knows."""

_RANGES = ("range", "affine_range", "sequential_range", "static_range", "dynamic_range")
_PLAIN_PACKAGES = ("math", "typing", "typing_extensions", "dataclasses", "enum", "__future__")


class Syntax(ast.NodeVisitor):
    """Visits the body of one function.

    Attributes:
        module, scope, report: where it stands, what is known of its names, where findings go.
        used: global names that it reads, by the first place that does.
    """

    def __init__(self, module: Module, scope: Scope, report: Report, calls: Calls) -> None:
        self.module = module
        self.scope = scope
        self.report = report
        self.calls = calls
        self.used: dict[str, ast.expr] = {}
        self._in_head: set[int] = set()

    def add(self, node: ast.AST, rule: str, received: str = "", **narrower: object) -> None:
        """Report a violation in this module."""
        self.report.add(self.module, node, rule, received, **narrower)  # type: ignore[arg-type]

    def body(self, statements: list[ast.stmt]) -> None:
        """Visit the statements of the function."""
        for statement in statements:
            self.visit(statement)

    def visit(self, node: ast.AST) -> None:
        """Apply the table of forbidden syntax, then the method for this kind of node, if any."""
        rule = _FORBIDDEN.get(type(node))
        if rule is not None:
            self.add(node, rule, _text(node))
        for clause in getattr(node, "generators", ()):
            self._in_head.add(id(clause.iter))
        if isinstance(node, ast.expr) and self._is_global(node):
            self._global(node)
        getattr(self, f"visit_{type(node).__name__}", self.generic_visit)(node)

    # -- statements --------------------------------------------------------------------------------

    def visit_Import(self, node: ast.Import) -> None:
        """Reported by the table."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Reported by the table."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """A nested function: from 2.32 on its body obeys the same rules."""
        self.add(node, "nested-function", node.name)
        self.body(node.body)

    def visit_With(self, node: ast.With) -> None:
        """Only ``with nl.no_reorder():``."""
        for item in node.items:
            call = item.context_expr
            plain = isinstance(call, ast.Call) and not call.args and not call.keywords
            name = self.scope.dotted(call.func) if isinstance(call, ast.Call) else None
            if name != "nki.language.no_reorder" or not plain or item.optional_vars is not None:
                self.add(node, "with", _text(call))
            self.visit(call)
        self.body(node.body)

    def visit_For(self, node: ast.For) -> None:
        """A plain target, a known iterable, no else."""
        if node.orelse:
            self.add(node.orelse[0], "loop-else", "for ... else")
        if not isinstance(node.target, ast.Name):
            self.add(node.target, "loop-target", _text(node.target))
        self._in_head.add(id(node.iter))
        head = node.iter.func if isinstance(node.iter, ast.Call) else node.iter
        if self.scope.dotted(head) == "nki.language.dynamic_range":
            self._exits(node.body)
        self._condition(node.iter)
        self.visit(node.iter)
        self._loop([*node.body, *node.orelse])

    def _exits(self, body: list[ast.stmt]) -> None:
        """Statements that leave a dynamic loop early; those of loops inside it do not."""
        for node in body:
            if isinstance(node, ast.Break | ast.Continue | ast.Return):
                self.add(node, "dynamic-exit", _text(node))
            elif isinstance(node, ast.If):
                self._exits([*node.body, *node.orelse])

    def visit_While(self, node: ast.While) -> None:
        """No else; the condition is known while tracing."""
        if node.orelse:
            self.add(node.orelse[0], "loop-else", "while ... else")
        self._condition(node.test)
        self.visit(node.test)
        self._loop([*node.body, *node.orelse])

    def _loop(self, body: list[ast.stmt]) -> None:
        self.calls.loops += 1
        self.body(body)
        self.calls.loops -= 1

    def visit_If(self, node: ast.If) -> None:
        """The condition is known while tracing; names may repeat between the branches."""
        self._condition(node.test)
        self.visit(node.test)
        for arm, statements in enumerate((node.body, node.orelse)):
            self.calls.arms.append((id(node), arm))
            self.body(statements)
            self.calls.arms.pop()

    def visit_Assert(self, node: ast.Assert) -> None:
        """The condition is known while tracing."""
        self._condition(node.test)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Chains, and assignments into tensors or globals."""
        mutating = [t for t in node.targets if isinstance(t, ast.Attribute | ast.Subscript)]
        if len(mutating) > 1:
            self.add(node, "chained-assignment", _text(node))
        for target in node.targets:
            self._target(target)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Tensors are not updated by operators."""
        if self.scope.is_tensor(node.target):
            self.add(node, "tensor-operator", _text(node))
        else:
            self._target(node.target)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """The annotation is not looked at."""
        self._target(node.target)
        if node.value is not None:
            self.visit(node.value)

    def _target(self, target: ast.expr) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            for element in target.elts:
                self._target(element)
        elif isinstance(target, ast.Subscript):
            if self.scope.is_tensor(target.value):
                self.add(target, "tensor-assignment", f"{_text(target)} = ...")
            elif self._is_global(target.value):
                self.add(target, "global-mutation", _text(target))

    def visit_Expr(self, node: ast.Expr) -> None:
        """An instruction standing alone; its (missing) value is not used."""
        if isinstance(node.value, ast.Call):
            self.calls.statement = node.value
        self.generic_visit(node)

    # -- expressions -------------------------------------------------------------------------------

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """The condition is known while tracing."""
        self._condition(node.test)
        self.generic_visit(node)

    def _condition(self, test: ast.expr) -> None:
        if isinstance(test, ast.BoolOp):
            for value in test.values:
                self._condition(value)
        elif isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            self._condition(test.operand)
        elif self.scope.is_tensor(test):
            self.add(test, "tensor-condition", _text(test))

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """No ``@``, no operators on tensors."""
        if isinstance(node.op, ast.MatMult):
            self.add(node, "matmul-operator", _text(node))
        elif self.scope.is_tensor(node.left) or self.scope.is_tensor(node.right):
            self.add(node, "tensor-operator", _text(node))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """No signs on tensors."""
        if not isinstance(node.op, ast.Not) and self.scope.is_tensor(node.operand):
            self.add(node, "tensor-operator", _text(node))
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        """``is``, ``in``, comparisons of tensors and of the chip's version."""
        sides = [node.left, *node.comparators]
        members = [op for op in node.ops if isinstance(op, ast.In | ast.NotIn)]
        if any(isinstance(op, ast.Is | ast.IsNot) for op in node.ops):
            self.add(node, "identity", _text(node))
        elif members:
            self._membership(node, len(members))
        elif not any(isinstance(s, ast.Constant) and s.value is None for s in sides):
            if any(self.scope.is_tensor(side) for side in sides):
                self.add(node, "tensor-operator", _text(node))
            self._version_order(node, sides)
        self.generic_visit(node)

    def _membership(self, node: ast.Compare, count: int) -> None:
        right = node.comparators[-1]
        kind = self.scope.kind(right)
        keys = isinstance(right, ast.Call) and isinstance(right.func, ast.Attribute)
        keys = keys and right.func.attr in ("keys", "values", "items")  # type: ignore[attr-defined]
        if len(node.ops) > 1 or keys or (kind is not None and kind.name in ("dict", "tensor")):
            self.add(node, "membership", _text(node))

    def _version_order(self, node: ast.Compare, sides: list[ast.expr]) -> None:
        ordered = any(isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for op in node.ops)
        for side in sides:
            name = self.scope.dotted(side.func if isinstance(side, ast.Call) else side) or ""
            version = name == "nki.isa.get_nc_version" or ".nc_version." in name
            if ordered and version:
                self.add(node, "version-order", _text(node))
                return

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """No format specifications."""
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                if part.format_spec is not None:
                    self.add(part, "format", _text(node))
                self.visit(part.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        """No bytes, no complex numbers."""
        if isinstance(node.value, bytes | complex):
            self.add(node, "literal", repr(node.value))

    def visit_Dict(self, node: ast.Dict) -> None:
        """Keys are strings; nothing is unpacked."""
        for key in node.keys:
            if key is None:
                self.add(node, "starred", _text(node))
            elif isinstance(key, ast.Constant) and not isinstance(key.value, str):
                self.add(key, "literal", f"the key {_text(key)}")
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Attributes of tensors, by release."""
        since = TENSOR_ATTRIBUTES.get(node.attr)
        if since and self.scope.is_tensor(node.value):
            self.add(node, "tensor-attribute", f".{node.attr}", versions=between(before=since))
        name = self.scope.dotted(node)
        if name is None:
            self.generic_visit(node)
        else:
            self._imported(node, name)

    def visit_Name(self, node: ast.Name) -> None:
        """Imported names and built-ins."""
        if isinstance(node.ctx, ast.Store) or node.id in self.scope.local:
            return
        name = self.scope.dotted(node)
        if name is not None:
            self._imported(node, name)
        elif node.id not in self.module.definitions and hasattr(builtins, node.id):
            self._builtin(node)

    def _builtin(self, node: ast.Name) -> None:
        kind = getattr(builtins, node.id)
        if node.id == "range" and id(node) not in self._in_head:
            self.add(node, "range-value", "range")
        elif node.id not in BUILTINS and not (
            isinstance(kind, type) and issubclass(kind, BaseException)
        ):
            self.add(node, "builtin", node.id)

    def _imported(self, node: ast.expr, name: str) -> None:
        """A value from another module: the vendor's, the project's, or one that is not there."""
        package = name.split(".")[0]
        if is_vendor(name):
            if name in [f"nki.language.{r}" for r in _RANGES] and id(node) not in self._in_head:
                self.add(node, "range-value", _text(node))
            self.calls.name(node, name)
        elif package == "neuronxcc":
            self.add(node, "old-namespace", name)
        elif package == "math":
            if name.count(".") and name.split(".")[1] not in MATH:
                self.add(node, "math", name)
        elif package not in _PLAIN_PACKAGES:
            self.used.setdefault(name, node)
            if not self._followed(name):
                self.add(node, "foreign" if is_foreign(name) else "unresolved", name)

    def _followed(self, name: str) -> bool:
        while name.strip("."):
            if is_module(self.module, name):
                return True
            name = name.rpartition(".")[0]
        return False

    def visit_Call(self, node: ast.Call) -> None:
        """Calls: of the vendor's functions, of built-ins, of methods."""
        if any(keyword.arg is None for keyword in node.keywords):
            self.add(node, "starred", _text(node))
        if id(node) in self._in_head:
            self._in_head.add(id(node.func))
        name = self.scope.dotted(node.func)
        if name is not None and is_vendor(name):
            self.calls.check(node, name)
        elif isinstance(node.func, ast.Name) and node.func.id in ("min", "max"):
            if len(node.args) not in (1, 2) or node.keywords:
                self.add(node, "min-max", _text(node))
        elif isinstance(node.func, ast.Attribute):
            self._method(node, node.func)
        self.generic_visit(node)

    def _method(self, node: ast.Call, function: ast.Attribute) -> None:
        kind = self.scope.kind(function.value)
        if kind is not None and kind.name in METHODS and function.attr not in METHODS[kind.name]:
            self.add(node, "container-method", f"{kind.name}.{function.attr}")
        elif kind is not None and kind.name == "str":
            self.add(node, "string-method", f"str.{function.attr}")
        elif self._is_global(function.value) and function.attr in (
            "append", "clear", "extend", "insert", "pop", "remove", "reverse", "setdefault", "sort",
            "update",
        ):  # fmt: skip
            self.add(node, "global-mutation", _text(node))

    # -- globals -----------------------------------------------------------------------------------

    def _is_global(self, node: ast.expr) -> bool:
        """Whether a node is a module-level name of the kernel's own project."""
        return (
            isinstance(node, ast.Name)
            and node.id not in self.scope.local
            and node.id in self.module.definitions
        )

    def _global(self, node: ast.expr) -> None:
        assert isinstance(node, ast.Name)
        self.used.setdefault(node.id, node)


def _text(node: ast.AST) -> str:
    """A node's source, on one line and short."""
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
