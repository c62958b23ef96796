"""The language check: from a kernel to its findings."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .calls import Arms, Calls
from .evidence import Scope
from .finding import Finding, Report
from .signatures import is_vendor
from .sources import (
    FUNCTIONS,
    Definition,
    Module,
    enter,
    is_jit,
    is_kernel,
    parse,
    resolve,
)
from .syntax import Syntax
from .versions import VERSIONS
from .versions import parse as parse_versions


def check(
    function_or_path: Callable[..., Any] | str | Path, versions: Iterable[str] = VERSIONS
) -> list[Finding]:
    """Check a kernel's source, and all of it that the kernel reaches, for releases of the SDK.

    Args:
        function_or_path: a kernel, a plain function, ``"file.py:function"``, or a file, whose
            decorated kernels are all checked.
        versions: the releases to check for, e.g. ``("2.28", "2.31")``.

    Returns:
        The findings, by file and line.

    Raises:
        OSError, SyntaxError, ValueError: the source is not there, cannot be parsed, or holds no
            such kernel.
    """
    asked = parse_versions(versions)
    if not asked:
        raise ValueError("no version to check for")
    report = Report(asked)
    for module, node in _entries(function_or_path):
        _Reach(report).kernel(module, node)
    return sorted(report.findings, key=lambda f: (f.file, f.line, f.column, f.rule))


def _entries(wanted: Callable[..., Any] | str | Path) -> list[tuple[Module, Definition]]:
    if callable(wanted):
        return [_of_function(plain_function(wanted))]
    text = str(wanted)
    file, _, name = text.rpartition(":") if ".py:" in text else (text, "", "")
    module = parse(Path(file).resolve())
    if name:
        node = module.definitions.get(name)
        if not isinstance(node, FUNCTIONS):
            raise ValueError(f"{file} has no function {name} at module level")
        return [(module, node)]
    kernels = [(module, n) for n in module.definitions.values() if is_kernel(module, n)]
    if not kernels:
        raise ValueError(f"{file} has no function decorated with @nki.jit; name one: {file}:name")
    return kernels


def plain_function(wanted: Any) -> Any:
    """The function inside a kernel, a kernel on a grid, or a partial call of one."""
    while True:
        inner = getattr(wanted, "func", None) or getattr(wanted, "__wrapped__", None)
        owner = getattr(wanted, "__self__", None)
        if inner is None and hasattr(owner, "__wrapped__"):
            inner = owner
        if inner is None:
            return wanted
        wanted = inner


def _of_function(function: Any) -> tuple[Module, Definition]:
    """The definition of a function in its file; names of enclosing functions are known to it."""
    source = inspect.getsourcefile(function)
    code = getattr(function, "__code__", None)
    if source is None or code is None:
        raise ValueError(f"the source of {function!r} is not available")
    module = parse(Path(source).resolve())
    chain = _enclosing(module.tree, code.co_firstlineno, function.__name__)
    if chain is None:
        raise ValueError(f"{source} has no function {function.__name__} any more")
    for outer in chain[:-1]:
        module = replace(module, imports=dict(module.imports), definitions=dict(module.definitions))
        enter(module, outer.body)  # type: ignore[attr-defined]
    return module, chain[-1]  # type: ignore[return-value]


def _enclosing(root: ast.AST, line: int, name: str) -> list[ast.AST] | None:
    """The functions around the definition of `name` that starts in `line`, and itself."""
    for node in ast.iter_child_nodes(root):
        own: list[ast.AST] = [node] if isinstance(node, FUNCTIONS) else []
        if isinstance(node, FUNCTIONS) and node.name == name:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if first == line:
                return own
        inner = _enclosing(node, line, name)
        if inner is not None:
            return [*own, *inner]
    return None


class _Reach:
    """Follows one kernel through its sources and applies the rules to each definition once."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.names: dict[tuple[str, str], list[tuple[str, Arms]]] = {}
        self.seen: set[int] = set()
        self.waiting: list[tuple[Module, Definition, ast.expr, Module]] = []

    def kernel(self, module: Module, node: Definition) -> None:
        """Check a kernel and everything that it reaches."""
        assert isinstance(node, FUNCTIONS)
        self.seen.add(id(node))
        self._kernel_header(module, node)
        self._function(module, node)
        while self.waiting:
            self._reached(*self.waiting.pop(0))

    def _reached(self, module: Module, node: Definition, user: ast.expr, where: Module) -> None:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            self._constant(module, node, user, where)
            return
        if id(node) in self.seen:
            return
        self.seen.add(id(node))
        if isinstance(node, ast.ClassDef):
            self._class(module, node)
            return
        for decorator in node.decorator_list:
            rule = "nested-jit" if is_jit(module, decorator) else "decorator"
            self.report.add(module, decorator, rule, ast.unparse(decorator))
        self._function(module, node)

    # -- functions ---------------------------------------------------------------------------------

    def _kernel_header(self, module: Module, node: Any) -> None:
        for decorator in node.decorator_list:
            if not is_jit(module, decorator):
                self.report.add(module, decorator, "decorator", ast.unparse(decorator))
            elif isinstance(decorator, ast.Call):
                for keyword in decorator.keywords:
                    rule = "jit-target" if keyword.arg == "platform_target" else "jit-option"
                    self.report.add(module, keyword.value, rule, f"{keyword.arg}=...")
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if isinstance(default, ast.List):
                self.report.add(
                    module, default, "list-argument", f"the default {ast.unparse(default)}"
                )
        for parameter in (*node.args.args, *node.args.kwonlyargs):
            annotation = parameter.annotation
            base = annotation.value if isinstance(annotation, ast.Subscript) else annotation
            if isinstance(base, ast.Name) and base.id in ("list", "List"):
                self.report.add(module, parameter, "list-argument", ast.unparse(parameter))

    def _function(self, module: Module, node: Any) -> None:
        """A function's parameters and body, and the names that it uses."""
        self._imports(module)
        if isinstance(node, ast.AsyncFunctionDef):
            self.report.add(module, node, "generator", f"async def {node.name}")
        for parameter, rule in ((node.args.vararg, "star-parameter"),
                                (node.args.kwarg, "keyword-parameters")):  # fmt: skip
            if parameter is not None:
                self.report.add(module, parameter, rule, parameter.arg)
        for parameter in node.args.kwonlyargs:
            self.report.add(module, parameter, "keyword-only", parameter.arg)
        scope = Scope(module, node)
        visitor = Syntax(module, scope, self.report, Calls(module, scope, self.report, self.names))
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                visitor.visit(default)
        visitor.body(node.body)
        self._follow(module, visitor.used)

    def _imports(self, module: Module) -> None:
        """The old namespace in the module-level imports of a file that is reached."""
        if id(module.tree) in self.seen:
            return
        self.seen.add(id(module.tree))
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None) or "", *(a.name for a in node.names)]
                if any(name.split(".")[0] == "neuronxcc" for name in names):
                    self.report.add(module, node, "old-import", ast.unparse(node))

    def _follow(self, module: Module, used: dict[str, ast.expr]) -> None:
        """Queue the definitions behind global and imported names."""
        for name, user in used.items():
            found: tuple[Module, str] | None = (module, name)
            if name not in module.definitions:
                found = resolve(module, name)
            if found is not None:
                self.waiting.append((found[0], found[0].definitions[found[1]], user, module))

    # -- constants and classes ---------------------------------------------------------------------

    def _constant(
        self, module: Module, node: ast.Assign | ast.AnnAssign, user: ast.expr, where: Module
    ) -> None:
        """A module-level value that a function reads: immutable, and of Python's own types."""
        value = node.value
        self._vendor_names(module, node)
        call = module.dotted(value.func) if isinstance(value, ast.Call) else None
        builtin = isinstance(value, ast.Call) and isinstance(value.func, ast.Name)
        made = value.func.id if builtin else ""  # type: ignore[union-attr]
        if isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp) or (
            made in ("list", "dict", "set")
        ):
            self.report.add(where, user, "mutable-global", ast.unparse(user))
        elif call is not None and call.split(".")[0] in ("numpy", "torch", "jax", "ml_dtypes"):
            self.report.add(where, user, "foreign", f"{ast.unparse(user)} = {call}(...)")

    def _vendor_names(self, module: Module, node: ast.Assign | ast.AnnAssign) -> None:
        """The vendor's names in a constant's value, which is computed on import."""
        if id(node) in self.seen or node.value is None:
            return
        self.seen.add(id(node))
        calls = Calls(module, Scope(module, node), self.report, self.names)
        for part in ast.walk(node.value):
            dotted = module.dotted(part) if isinstance(part, ast.Attribute | ast.Name) else None
            if dotted is not None and is_vendor(dotted):
                calls.name(part, dotted)  # type: ignore[arg-type]

    def _class(self, module: Module, node: ast.ClassDef) -> None:
        """A class that a kernel uses: its bases, its decorators and its methods."""
        known = ("nki.language.NKIObject", "nki.isa.NKIObject", "enum.Enum", "typing.NamedTuple")
        for base in node.bases:
            if module.dotted(base) not in known:
                self.report.add(module, base, "base-class", ast.unparse(base))
        for decorator in node.decorator_list:
            target = decorator.func if isinstance(decorator, ast.Call) else decorator
            if module.dotted(target) != "dataclasses.dataclass":
                self.report.add(module, decorator, "decorator", ast.unparse(decorator))
        for member in node.body:
            if not isinstance(member, FUNCTIONS):
                continue
            for decorator in member.decorator_list:
                if not (isinstance(decorator, ast.Name) and decorator.id == "staticmethod"):
                    self.report.add(module, decorator, "decorator", ast.unparse(decorator))
            self._function(module, member)
