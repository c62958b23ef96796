"""Rules about the vendor's names and calls: what each release has, in which order and kind."""

from __future__ import annotations

import ast

from .evidence import Kind, Scope, argument
from .finding import Report
from .signatures import MODULES, VALUED, Entry, table
from .sources import Module
from .versions import between

Arms = tuple[tuple[int, int], ...]
"""The branches (of which if, which arm) around a place."""

_PLAIN_FUNCTIONS = frozenset(
    {
        "ndarray", "zeros", "ds", "affine_range", "sequential_range", "static_range",
        "dynamic_range", "fori_loop", "while_loop", "program_id", "num_programs", "program_ndim",
        "shared_constant", "shared_identity_matrix", "device_print", "no_reorder", "is_hbm",
        "is_psum", "is_sbuf", "is_on_chip", "random_seed", "par_dim", "NKIObject", "NkiTensor",
    }
)  # fmt: skip
"""Of nki.language, what a kernel calls; the rest are tokens, and helpers that return tensors."""

_DEPRECATED = {
    "nki.language.par_dim": ("2.27", "write the size itself"),
    "nki.language.dynamic_range": ("2.32", "use nl.fori_loop"),
}
_ENUMERATIONS = ("dge_mode", "oob_mode", "reduce_cmd", "engine", "dma_engine", "perf_mode")
_KEYWORD_REMEDIES = {
    "mask": "slice the operands to the valid part",
    "dtype": "give dst the type",
    "accumulate": "allocate a new PSUM tile for each output",
    "dst_rmw_op": "use nisa.dma_compute",
    "unique_indices": "leave it out, or use nisa.dma_compute",
    "use_gpsimd_dma": "leave it out, or use dma_engine from 2.29 on",
    "dma_engine": "leave it out",
}
_NAME_REMEDIES = {
    "arange": "use slices, nl.ds or .ap",
    "mgrid": "use slices, nl.ds or .ap",
    "loop_reduce": "accumulate with instructions",
    "load": "use nisa.dma_copy",
    "store": "use nisa.dma_copy",
    "no_reorder": "leave it out",
}
_UNLISTED = ("nki.typing", "nki.compiler", "nki.dtype", "nki.tensor")


class Calls:
    """Checks the vendor's names and calls in one function.

    Attributes:
        statement: the call that stands alone as a statement, if any.
        loops: how many loops surround the place that is being visited.
        arms: the branches around it.
        names: literal names seen in the whole kernel, by kind, with the branches around them.
    """

    def __init__(
        self,
        module: Module,
        scope: Scope,
        report: Report,
        names: dict[tuple[str, str], list[tuple[str, Arms]]],
    ) -> None:
        self.module = module
        self.scope = scope
        self.report = report
        self.names = names
        self.statement: ast.Call | None = None
        self.loops = 0
        self.arms: list[tuple[int, int]] = []

    def add(self, node: ast.AST, rule: str, received: str = "", **narrower: object) -> None:
        """Report a violation in this module."""
        self.report.add(self.module, node, rule, received, **narrower)  # type: ignore[arg-type]

    # -- names -------------------------------------------------------------------------------------

    def name(self, node: ast.expr, dotted: str) -> None:
        """A use of one of the vendor's names."""
        if dotted in _DEPRECATED:
            since, remedy = _DEPRECATED[dotted]
            self.add(node, "deprecated", dotted, versions=between(since), remedy=remedy)
            if dotted.endswith(".par_dim"):
                return
        if dotted == "nki.language.hbm" and self.report.straddles("2.29"):
            self.add(node, "hbm-alias")
        full, member = _split(dotted)
        if dotted in MODULES or full is None:
            return
        entries = table().get(full, {})
        missing = [v for v in self.report.versions if v not in entries]
        leaf = full.rpartition(".")[2]
        remedy = _NAME_REMEDIES.get(leaf, "")
        if missing:
            self.add(node, "unknown-name", full, versions=missing, remedy=remedy)
        elif member:
            lacking = [
                v for v, e in entries.items() if e.members is not None and member not in e.members
            ]
            self.add(node, "unknown-name", f"{full}.{member}", versions=lacking)

    # -- calls -------------------------------------------------------------------------------------

    def check(self, node: ast.Call, dotted: str) -> None:
        """A call of one of the vendor's functions."""
        full, member = _split(dotted)
        if full is None or member:
            return
        module, _, leaf = full.rpartition(".")
        entries = table().get(full, {})
        if not any(isinstance(a, ast.Starred) for a in node.args):
            self._keywords(node, leaf, entries)
            self._positions(node, leaf, entries)
            self._required(node, leaf, entries)
        self._literal_name(node, leaf)
        if module == "nki.isa":
            self._instruction(node, leaf, entries)
        elif module == "nki.language":
            self._language(node, leaf, entries)

    def _keywords(self, node: ast.Call, leaf: str, entries: dict[str, Entry]) -> None:
        for keyword in node.keywords:
            unknown = [
                v
                for v, entry in entries.items()
                if keyword.arg and entry.parameters is not None and not entry.open_ended
                if keyword.arg not in {p.name for p in entry.parameters}
            ]
            remedy = _KEYWORD_REMEDIES.get(keyword.arg or "", "")
            self.add(
                keyword.value, "unknown-keyword", f"{leaf}({keyword.arg}=...)", versions=unknown,
                remedy=remedy,
            )  # fmt: skip

    def _positions(self, node: ast.Call, leaf: str, entries: dict[str, Entry]) -> None:
        """Positional arguments mean the same in every release asked for."""
        asked = {
            v: e.parameters
            for v, e in entries.items()
            if v in self.report.versions and e.parameters is not None and not e.open_ended
        }
        for position, value in enumerate(node.args):
            short = [v for v, p in asked.items() if position >= len(p)]
            self.add(
                value, "too-many-arguments", f"{leaf} with {len(node.args)} positions",
                versions=short,
            )  # fmt: skip
            meanings = {p[position].name for p in asked.values() if position < len(p)}
            if len(meanings) > 1 and leaf != "register_move":
                listed = ", ".join(sorted(meanings))
                self.add(value, "argument-order", f"position {position + 1} of {leaf} is {listed}")

    def _required(self, node: ast.Call, leaf: str, entries: dict[str, Entry]) -> None:
        given = {keyword.arg for keyword in node.keywords}
        if None in given:
            return
        missing: dict[str, list[str]] = {}
        for version, entry in entries.items():
            for parameter in (entry.parameters or ())[len(node.args) :]:
                if parameter.required and parameter.name not in given:
                    missing.setdefault(parameter.name, []).append(version)
        for name, versions in missing.items():
            rule = "sequential-range" if leaf == "sequential_range" else "missing-argument"
            if leaf == "sequential_range" and name != "step":
                continue
            self.add(node, rule, f"{leaf} without {name}", versions=versions)

    def _literal_name(self, node: ast.Call, leaf: str) -> None:
        """``name="literal"`` in a loop, or twice in one kernel."""
        value = argument(node, "name")
        if isinstance(value, ast.JoinedStr) and not any(
            isinstance(part, ast.FormattedValue) for part in value.values
        ):
            value = value.values[0] if value.values else None
        if not isinstance(value, ast.Constant) or not isinstance(value.value, str | None):
            return
        if not value.value:
            return
        kind = "tensor" if leaf == "ndarray" else "instruction"
        place, arms = f"line {node.lineno}", tuple(self.arms)
        seen = self.names.setdefault((kind, value.value), [])
        if self.loops:
            self.add(value, "duplicate-name", f"{value.value!r} in a loop")
        for other, others in seen:
            if not _exclusive(arms, others):
                self.add(value, "duplicate-name", f"{value.value!r}, also in {other}")
                break
        seen.append((place, arms))

    # -- nki.isa -----------------------------------------------------------------------------------

    def _instruction(self, node: ast.Call, leaf: str, entries: dict[str, Entry]) -> None:
        is_function = any(entry.parameters is not None for entry in entries.values())
        if is_function and leaf not in VALUED and node is not self.statement:
            self.add(node, "instruction-value", f"the value of nisa.{leaf} is used")
        for name in _ENUMERATIONS:
            value = argument(node, name)
            if not isinstance(value, ast.Constant) or isinstance(value.value, bool | None):
                continue
            if isinstance(value.value, int) or name != "perf_mode":
                self.add(value, "enumeration", f"{leaf}({name}={value.value!r})")
        specific = getattr(self, f"_check_{leaf}", None)
        if specific is not None:
            specific(node)

    def _check_memset(self, node: ast.Call) -> None:
        value = argument(node, "value", 1)
        kind = self.scope.kind(argument(node, "dst", 0)) or Kind("")
        number = value.operand if isinstance(value, ast.UnaryOp) else value
        is_float = isinstance(number, ast.Constant) and isinstance(number.value, float)
        if is_float and kind.dtype.startswith(("int", "uint")):
            self.add(node, "memset-kind", f"{ast.unparse(value or node)} on {kind.dtype}")

    def _check_tensor_reduce(self, node: ast.Call) -> None:
        axis = argument(node, "axis", 3)
        literal = isinstance(axis, ast.Constant | ast.List | ast.Tuple | ast.UnaryOp)
        if axis is None or not literal or not self.report.straddles("2.29"):
            return
        if ast.unparse(axis) not in ("1", "(1,)", "[1]"):
            self.add(axis, "reduce-axis", f"axis={ast.unparse(axis)}")

    def _check_activation(self, node: ast.Call) -> None:
        bias = argument(node, "bias", 3)
        known = self.module.definitions.get(bias.id) if isinstance(bias, ast.Name) else None
        value = known.value if isinstance(known, ast.Assign) else bias
        number = value.operand if isinstance(value, ast.UnaryOp) else value
        if isinstance(number, ast.Constant) and isinstance(number.value, int | float):
            self.add(node, "scalar-bias", f"bias={ast.unparse(bias or node)}")

    def _check_dma_copy(self, node: ast.Call) -> None:
        for position, role in enumerate(("dst", "src")):
            kind = self.scope.kind(argument(node, role, position))
            if kind is not None and kind.buffer == "psum":
                self.add(node, "psum-dma", f"{role} in psum")

    # -- nki.language ------------------------------------------------------------------------------

    def _language(self, node: ast.Call, leaf: str, entries: dict[str, Entry]) -> None:
        if leaf not in _PLAIN_FUNCTIONS and entries:
            stable = between("2.32") if leaf == "copy" else ()
            present = [v for v in entries if v not in stable]
            self.add(node, "tensor-helper", f"nl.{leaf}(...)", versions=present)
            self.add(node, "experimental-helper", f"nl.{leaf}(...)", versions=present)
        if leaf in ("ndarray", "zeros", "ones", "full"):
            position = 3 if leaf == "full" else 2
            buffer = argument(node, "buffer", position)
            if isinstance(buffer, ast.Constant) and isinstance(buffer.value, str):
                self.add(buffer, "buffer-string", f"buffer={buffer.value!r}")
            self._shape(node, self.scope.kind(node) or Kind(""), argument(node, "shape", 0))

    def _shape(self, node: ast.Call, kind: Kind, shape: ast.expr | None) -> None:
        on_chip = kind.buffer in ("sbuf", "psum") or argument(node, "buffer", 2) is None
        if not on_chip or not isinstance(shape, ast.Tuple | ast.List):
            return
        first = shape.elts[0] if shape.elts else None
        too_high = isinstance(first, ast.Constant) and isinstance(first.value, int)
        too_high = too_high and first.value > 128  # type: ignore[union-attr]
        if len(shape.elts) < 2 or too_high:
            self.add(node, "on-chip-shape", ast.unparse(shape))


def _split(dotted: str) -> tuple[str | None, str]:
    """The table's name in a full name, and what follows it (a member); None for no such module."""
    if dotted.startswith(_UNLISTED):
        return None, ""
    owner = max((m for m in MODULES if dotted.startswith(m + ".")), key=len, default=None)
    if owner is None:
        return None, ""
    name, _, member = dotted[len(owner) + 1 :].partition(".")
    return f"{owner}.{name}", member


def _exclusive(arms: Arms, others: Arms) -> bool:
    """Whether two places stand in different arms of the same if."""
    known = dict(others)
    return any(known.get(test, arm) != arm for test, arm in arms)
