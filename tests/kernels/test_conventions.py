"""The kernels' sources: documented in fixed sections, inside what every release of NKI compiles."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernels.specs import SPECS, KernelSpec
from kernels.variants import TUNED

FOLDER = Path(__file__).resolve().parents[2] / "kernels"
SOURCES = sorted(FOLDER.glob("nki_*.py"))
ONLY_RANKS = ("sums",)  # tuned parameters that a kernel of one rank does not need
SECTIONS = (
    "Math",
    "Dimensions",
    "Args",
    "Returns",
    "Tiling",
    "Engine plan",
    "Bound",
    "Numerics",
    "Refuses",
)
LONGEST_FUNCTION = 120
# What the oldest compiler of `nki` kernels does not parse, inside a function.
FORBIDDEN = (
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
    ast.Lambda,
    ast.NamedExpr,
    ast.Starred,
    ast.Try,
    ast.Raise,
    ast.With,
    ast.Delete,
    ast.Global,
    ast.Nonlocal,
    ast.Yield,
    ast.YieldFrom,
    ast.Await,
    ast.AsyncFunctionDef,
    ast.AsyncFor,
    ast.AsyncWith,
    ast.Match,
    ast.ClassDef,
    ast.Import,
    ast.ImportFrom,
    ast.Is,
    ast.IsNot,
    ast.MatMult,
    ast.Set,
    ast.FormattedValue,  # judged by itself below
)
BUILTINS = {
    "isinstance",
    "type",
    "slice",
    "print",
    "min",
    "max",
    "abs",
    "str",
    "bool",
    "int",
    "float",
    "divmod",
    "tuple",
    "list",
    "dict",
    "len",
    "range",
}
# Parameters that every release from 2.27 on has, of the instructions in use.
PORTABLE = {
    "dma_copy": {"dst", "src", "oob_mode", "dge_mode", "name"},
    "memset": {"dst", "value", "engine", "name"},
    "tensor_copy": {"dst", "src", "engine", "name"},
    "affine_select": {
        "dst",
        "pattern",
        "offset",
        "channel_multiplier",
        "on_true_tile",
        "on_false_value",
        "cmp_op",
        "name",
    },
    "tensor_tensor": {"dst", "data1", "data2", "op", "engine", "name"},
    "tensor_scalar": {
        "dst",
        "data",
        "op0",
        "operand0",
        "reverse0",
        "op1",
        "operand1",
        "reverse1",
        "engine",
        "name",
    },
    "scalar_tensor_tensor": {
        "dst",
        "data",
        "op0",
        "operand0",
        "op1",
        "operand1",
        "reverse0",
        "reverse1",
        "name",
    },
    "tensor_reduce": {"dst", "op", "data", "axis", "negate", "keepdims", "name"},
    "activation": {
        "dst",
        "op",
        "data",
        "bias",
        "scale",
        "reduce_op",
        "reduce_res",
        "reduce_cmd",
        "name",
    },
    "reciprocal": {"dst", "data", "name"},
    "core_barrier": {"data", "cores"},
    "iota": {"dst", "pattern", "offset", "channel_multiplier", "name"},
    "sendrecv": {"src", "dst", "send_to_rank", "recv_from_rank", "pipe_id", "name"},
    "register_alloc": set(),
    "register_load": {"dst", "src"},
    "max8": {"dst", "src", "name"},
    "nc_find_index8": {"dst", "data", "vals", "name"},
    "nc_matmul": {
        "dst",
        "stationary",
        "moving",
        "is_stationary_onezero",
        "is_transpose",
        "tile_position",
        "tile_size",
        "perf_mode",
        "name",
    },
}

each_source = pytest.mark.parametrize("path", SOURCES, ids=[path.stem for path in SOURCES])
each_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in tree(path).body if isinstance(node, ast.FunctionDef)]


def entry_point(spec: KernelSpec) -> ast.FunctionDef:
    (found,) = [f for f in functions(FOLDER / spec.file) if f.name == spec.function]
    return found


def test_there_are_sources() -> None:
    assert {spec.file for spec in SPECS.values()} <= {path.name for path in SOURCES}


@each_spec
def test_docstring_has_the_sections_in_order(spec: KernelSpec) -> None:
    docstring = ast.get_docstring(entry_point(spec)) or ""
    summary = docstring.splitlines()[0]
    assert re.search(r"any|up to|\d", summary), "the summary line states the intended range"
    found = re.findall(r"^([A-Z][A-Za-z ]+):\s+\S", docstring, flags=re.MULTILINE)
    assert tuple(found) == SECTIONS


@each_spec
def test_docstring_describes_every_argument(spec: KernelSpec) -> None:
    function = entry_point(spec)
    docstring = ast.get_docstring(function) or ""
    described = docstring[docstring.index("Args:") : docstring.index("Returns:")]
    for argument in function.args.args:
        line = re.search(rf"(?:Args:)?\s+{argument.arg}\s+(.*)", described)
        assert line, f"{argument.arg} is not described"
        tensor = re.search(r"\[.+\]\s+.*(float32|int32|dtype of).*\s+HBM", line[1])
        constant = re.search(r"Python (float|int|bool|string)|string \"", line[1])
        assert tensor or constant, f"{argument.arg}: shape, dtype and memory, or kind of constant"
    returned = docstring[docstring.index("Returns:") : docstring.index("Tiling:")]
    assert "shared HBM" in returned


@each_spec
def test_signature_is_the_oracles(spec: KernelSpec) -> None:
    """What is tuned comes behind it, with the chosen value as its default."""
    signature = entry_point(spec).args
    arguments = [argument.arg for argument in signature.args]
    oracle = list(inspect.signature(spec.reference).parameters)
    assert arguments[: len(oracle)] == oracle
    behind = arguments[len(oracle) :]
    defaults = [ast.literal_eval(node) for node in signature.defaults[-len(behind) :]]
    tuned = [
        (name, default) for name, default in tuned_parameters(spec.name) if name not in ONLY_RANKS
    ]
    assert [*zip(behind, defaults if behind else [], strict=True)] == tuned


def tuned_parameters(kernel: str) -> list[tuple[str, object]]:
    """(name, chosen value) of a kernel's tuned parameters."""
    name = "decoder_stack_ranks" if kernel == "decoder_stack" else kernel
    tuned = TUNED.get(name)
    return [(one.name, one.default) for one in tuned.parameters] if tuned else []


def test_the_ranks_kernel_has_the_chosen_values() -> None:
    path = FOLDER / "nki_decode_ranks_kernels.py"
    (kernel,) = (f for f in functions(path) if f.name == "nki_decoder_stack_ranks_kernel")
    named = tuned_parameters("decoder_stack")
    assert [argument.arg for argument in kernel.args.args[-len(named) :]] == [n for n, _ in named]
    defaults = [ast.literal_eval(node) for node in kernel.args.defaults[-len(named) :]]
    assert defaults == [default for _, default in named]


@each_spec
def test_entry_point_alone_is_jitted_without_arguments(spec: KernelSpec) -> None:
    entries = {s.function for s in SPECS.values()}
    for function in functions(FOLDER / spec.file):
        decorators = [ast.unparse(decorator) for decorator in function.decorator_list]
        assert decorators == (["nki.jit"] if function.name in entries else []), function.name


@each_source
def test_only_nki_is_imported(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            assert all(alias.name.split(".")[0] == "nki" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and node.level == 0
            assert node.module.startswith(("nki.", "kernels.nki_")), node.module


def test_oracles_import_numpy_alone() -> None:
    for path in sorted({*FOLDER.rglob("*.py")} - {*SOURCES}):
        for node in ast.walk(tree(path)):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [str(node.module)]
            for module in modules:
                assert module.split(".")[0] not in ("nki", "nki_sim", "torch", "transformers")


@each_source
def test_functions_are_short_enough_to_read(path: Path) -> None:
    for function in functions(path):
        docstring = ast.get_docstring(function, clean=False) or ""
        assert function.end_lineno is not None
        lines = function.end_lineno - function.lineno + 1 - len(docstring.splitlines())
        assert lines <= LONGEST_FUNCTION, function.name
        assert docstring, f"{function.name} has no docstring"


def outside_the_subset(path: Path) -> Iterator[str]:
    """What a module's functions hold that the compiler of the oldest release does not take."""
    known = BUILTINS | {function.name for function in functions(path)}
    known |= {
        alias.asname or alias.name
        for node in tree(path).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for function in functions(path):
        arguments = function.args
        if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.posonlyargs:
            yield f"{function.name}: only plain parameters"
        given = known | {argument.arg for argument in arguments.args}  # functions are values
        for node in ast.walk(function):
            yield from (f"{function.name}:{problem}" for problem in node_problems(node, given))


def node_problems(node: ast.AST, known: set[str]) -> Iterator[str]:
    line = getattr(node, "lineno", "?")
    if isinstance(node, ast.FormattedValue):
        if node.format_spec is not None:
            yield f"{line}: an f-string with a format"
    elif isinstance(node, FORBIDDEN):
        yield f"{line}: {type(node).__name__}"
    elif isinstance(node, (ast.For, ast.While)):
        yield from loop_problems(node)
    elif isinstance(node, ast.Call):
        yield from call_problems(node, known)


def loop_problems(node: ast.For | ast.While) -> Iterator[str]:
    if node.orelse:
        yield f"{node.lineno}: else of a loop"
    if isinstance(node, ast.For) and not isinstance(node.target, ast.Name):
        yield f"{node.lineno}: a loop target that is not one name"


def call_problems(node: ast.Call, known: set[str]) -> Iterator[str]:
    function = ast.unparse(node.func)
    if any(keyword.arg is None for keyword in node.keywords):
        yield f"{node.lineno}: ** in a call"
    if isinstance(node.func, ast.Name) and function not in known:
        yield f"{node.lineno}: call of {function}"
    if function.startswith("nisa."):
        instruction = function.removeprefix("nisa.")
        passed = {keyword.arg for keyword in node.keywords}
        if node.args:
            yield f"{node.lineno}: positional argument of {instruction}"
        if instruction not in PORTABLE:
            yield f"{node.lineno}: {instruction} is not listed as portable"
        elif not passed <= PORTABLE[instruction]:
            yield f"{node.lineno}: {instruction} with {passed - PORTABLE[instruction]}"


@each_source
def test_source_stays_in_the_portable_subset(path: Path) -> None:
    assert list(outside_the_subset(path)) == []


@pytest.mark.parametrize(
    "body",
    [
        "x = [i for i in y]",
        "x = (lambda: 1)()",
        "raise ValueError",
        "x = y is None",
        "with y: pass",
        "import numpy",
        "x = sum(y)",
        "x = f'{y:02d}'",
        "for i, j in y: pass",
        "for i in y: pass\n else: pass",
        "nisa.memset(y, 0.0)",
        "nisa.memset(dst=y, mask=1)",
        "nisa.dma_compute(dst=y)",
        "f(**y)",
        "try:\n  pass\n except E: pass",
        "x = (z := 1)",
        "def inner(): pass\n inner()",
        "x = y @ y",
        "x, *z = y",
    ],
)
def test_the_subset_check_sees(body: str, tmp_path: Path) -> None:
    source = tmp_path / "nki_wrong.py"
    source.write_text(f"def kernel(y):\n {body}\n")
    assert list(outside_the_subset(source))


@each_source
def test_asserts_say_what_was_received(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Assert):
            assert isinstance(node.msg, ast.JoinedStr), f"{path.name}:{node.lineno}"
            text = ast.unparse(node.msg)
            assert "received" in text or "shape" in text, f"{path.name}:{node.lineno}"
