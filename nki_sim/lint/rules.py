"""Every rule of the language check, in one place; the README's table is made from it.

Sources: *front end* is the open snapshot of the 0.2.0 parser (KLR), *guide* the vendor's language
guide and API pages, *notes* its release notes, *use* what published kernels and reports show.
"""

from __future__ import annotations

from dataclasses import dataclass

from .versions import between

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        id: how findings name it.
        severity: ERROR (the compiler refuses, or compiles something else) or WARNING.
        text: what must hold.
        remedy: how to change the kernel.
        source: where the rule comes from.
        since, before: the releases that it holds for; None leaves an end open. A finding may
            narrow them further.
    """

    id: str
    severity: str
    text: str
    remedy: str
    source: str
    since: str | None = None
    before: str | None = None

    @property
    def versions(self) -> tuple[str, ...]:
        """The releases that it holds for."""
        return between(self.since, self.before)


_STATEMENTS = (
    Rule("nested-function", ERROR, "functions are defined at module level",
         "move it to the module and pass what it needs", "front end", before="2.32"),
    Rule("nested-class", ERROR, "classes are defined at module level", "move it to the module",
         "front end"),
    Rule("exceptions", ERROR, "there are no exceptions: no try, no raise",
         "check with assert, or decide before the call", "front end"),
    Rule("with", ERROR, "the only context is `with nl.no_reorder():`, without `as`",
         "write the statements without it", "front end"),
    Rule("loop-else", ERROR, "loops have no else", "set a flag, or test after the loop",
         "front end"),
    Rule("loop-target", ERROR, "a for loop has one plain name as its target",
         "loop over an index and unpack inside", "front end"),
    Rule("dynamic-exit", ERROR, "a dynamic loop is left by its condition only",
         "use a static loop, or compute the bound before", "front end"),
    Rule("range-value", ERROR, "ranges stand in the head of a for loop only",
         "write `for i in range(...)`", "front end"),
    Rule("scope", ERROR, "there is no global, nonlocal or del",
         "pass values as arguments and return them", "front end"),
    Rule("import", ERROR, "imports stand at module level", "move it to the top of the file",
         "front end"),
    Rule("generator", ERROR, "there are no generators and no async", "return a tuple or a list",
         "front end"),
    Rule("match", ERROR, "there is no match statement", "write if and elif", "front end"),
    Rule("chained-assignment", ERROR,
         "at most one target of a chained assignment is an attribute or a subscript",
         "write one assignment per target", "front end"),
)  # fmt: skip

_EXPRESSIONS = (
    Rule("comprehension", ERROR, "there are no comprehensions or generator expressions",
         "fill a list in a for loop", "front end"),
    Rule("lambda", ERROR, "there is no lambda", "write a function at module level", "front end"),
    Rule("walrus", ERROR, "there is no := in expressions", "assign in a statement of its own",
         "front end"),
    Rule("starred", ERROR, "nothing is unpacked with * or **", "name the elements one by one",
         "front end"),
    Rule("matmul-operator", ERROR, "there is no operator @", "use nisa.nc_matmul", "front end"),
    Rule("identity", WARNING, "`is` is documented as unsupported", "compare with == or !=",
         "guide of 0.3; the front end takes it with a warning"),
    Rule("membership", ERROR, "`in` searches a tuple, a list or a string, once per expression",
         "keep the keys in a tuple, or look them up in a loop", "front end"),
    Rule("format", ERROR, "f-strings have no format specification",
         "format the value before, or leave the specification out", "use"),
    Rule("literal", ERROR, "literals are numbers, strings, tuples, lists, dicts with string keys",
         "use a tuple, or string keys", "front end"),
    Rule("builtin", ERROR, "the compiler does not know this built-in function",
         "write it out with loops and min, max, len, abs, ...", "front end"),
    Rule("min-max", ERROR, "min and max take two numbers or one sequence",
         "nest the calls: max(a, max(b, c))", "front end"),
    Rule("math", ERROR, "math has ceil, floor, gcd, log2, log10, pow, sqrt, pi, e, inf, nan",
         "compute it before the call and pass it as an argument", "front end"),
    Rule("container-method", ERROR, "lists and dicts have only some of Python's methods",
         "write it out with a loop", "front end"),
    Rule("string-method", WARNING, "methods of strings are not documented",
         "build strings with f-strings", "guide"),
    Rule("foreign", ERROR, "values of other packages (NumPy, torch, os, ...) are not available",
         "compute it before the call and pass it as an argument", "guide"),
)  # fmt: skip

_DEFINITIONS = (
    Rule("unresolved", WARNING, "the sources of what a kernel uses are there to be checked",
         "install the package, or put its folder beside the kernel", "-"),
    Rule("star-parameter", ERROR, "functions have no *args", "list the parameters", "front end"),
    Rule("keyword-parameters", WARNING, "**kwargs is ignored", "list the parameters",
         "front end: a warning"),
    Rule("keyword-only", WARNING, "keyword-only parameters are not supported by name",
         "drop the bare *", "front end: accepted, documented as unsupported"),
    Rule("decorator", ERROR, "decorators are @nki.jit, @dataclass and @staticmethod",
         "call the wrapped function plainly", "front end"),
    Rule("nested-jit", ERROR, "a kernel calls plain functions, not other kernels",
         "take @nki.jit off the inner function", "notes", before="2.28"),
    Rule("jit-target", ERROR, "@nki.jit takes no platform_target",
         "set NEURON_PLATFORM_TARGET_OVERRIDE", "notes", since="2.29"),
    Rule("jit-option", WARNING, "options of @nki.jit are ignored", "write @nki.jit", "notes",
         since="2.29"),
    Rule("base-class", ERROR, "base classes are nl.NKIObject, Enum and NamedTuple",
         "repeat the members, or hold an instance", "front end"),
    Rule("list-argument", ERROR, "a kernel's arguments are no lists", "use a tuple", "notes",
         since="2.29"),
    Rule("mutable-global", WARNING, "a kernel is a function of its arguments: no mutable globals",
         "use a tuple, or pass it as an argument", "guide"),
    Rule("global-mutation", ERROR, "a kernel does not change what is outside it",
         "build it inside and return it", "guide"),
    Rule("old-import", WARNING, "nothing of neuronxcc is imported beside a kernel",
         "take the import out, if only old releases need it", "guide", since="2.30"),
    Rule("old-namespace", ERROR, "neuronxcc.nki is gone", "import nki, nki.isa, nki.language",
         "notes", since="2.30"),
)  # fmt: skip

_TENSORS = (
    Rule("tensor-assignment", ERROR, "tensors are written by instructions, not by t[...] = x",
         "use nisa.tensor_copy, nisa.memset or another instruction with dst", "front end"),
    Rule("tensor-operator", ERROR, "Python's operators do not work on tensors",
         "use nisa.tensor_tensor or nisa.tensor_scalar", "front end"),
    Rule("tensor-condition", ERROR, "conditions are known while tracing: no tensors in them",
         "compare with None, or select with an instruction", "front end"),
    Rule("tensor-attribute", ERROR, "this attribute of tensors is newer than the release",
         "use slices, .reshape and .ap on the base tensor", "guide"),
    Rule("on-chip-shape", ERROR, "on chip a tensor has 2 dimensions or more, at most 128 rows",
         "use (P, 1) for one value per partition, and tiles of 128 rows", "guide"),
    Rule("psum-dma", ERROR, "a DMA does not reach PSUM", "copy it with nisa.tensor_copy first",
         "notes", since="2.29"),
)  # fmt: skip

_CALLS = (
    Rule("unknown-name", ERROR, "the release has no such name", "see the API of the release",
         "guide"),
    Rule("unknown-keyword", ERROR, "the release's function has no such parameter",
         "use the parameters common to all releases", "guide"),
    Rule("argument-order", ERROR, "this position means something else from release to release",
         "pass it by keyword", "guide"),
    Rule("too-many-arguments", ERROR, "the release's function takes fewer arguments",
         "pass them by keyword", "guide"),
    Rule("missing-argument", ERROR, "the release's function requires this argument", "pass it",
         "guide"),
    Rule("sequential-range", WARNING, "sequential_range is documented with three arguments",
         "use range", "guide", before="2.29"),
    Rule("instruction-value", ERROR, "an instruction returns nothing", "pass dst and use that",
         "guide", before="2.32"),
    Rule("tensor-helper", ERROR, "functions of nl that return tensors came with 0.3",
         "use an instruction of nki.isa with dst", "notes", before="2.29"),
    Rule("experimental-helper", WARNING, "functions of nl that return tensors are experimental",
         "use an instruction of nki.isa with dst", "notes", since="2.29"),
    Rule("buffer-string", ERROR, "buffers are nl.sbuf, nl.psum, ..., not strings",
         "write buffer=nl.sbuf", "notes", since="2.29"),
    Rule("hbm-alias", WARNING, "nl.hbm is shared before 0.3 and private from it on",
         "write nl.shared_hbm or nl.private_hbm", "notes"),
    Rule("enumeration", WARNING, "settings are members of enumerations, not integers or strings",
         "write for example nisa.oob_mode.skip",
         "notes of 0.3; published kernels of later releases pass integers", since="2.29"),
    Rule("memset-kind", ERROR, "an integer tensor is set to an integer", "write 0 instead of 0.0",
         "notes", since="2.29"),
    Rule("scalar-bias", ERROR, "the bias of an activation is a (P, 1) tile before 0.3",
         "set a (P, 1) tile with nisa.memset and pass that", "front end", before="2.29"),
    Rule("reduce-axis", WARNING, "axes of tensor_reduce are numbered differently before 0.3",
         "reduce a 2-D tile with axis=1", "notes"),
    Rule("version-order", WARNING, "nc_version is not ordered before 0.3", "compare with ==",
         "front end", before="2.29"),
    Rule("duplicate-name", ERROR, "every name= is unique in a kernel",
         "add the loop index with an f-string, or leave it out", "guide"),
    Rule("deprecated", WARNING, "this name is deprecated", "use its successor", "notes"),
)  # fmt: skip

RULES: dict[str, Rule] = {
    rule.id: rule for rule in (*_STATEMENTS, *_EXPRESSIONS, *_DEFINITIONS, *_TENSORS, *_CALLS)
}


def markdown() -> str:
    """The rules as a Markdown table."""
    rows = [("rule", "severity", "what must hold", "remedy", "SDK", "source"), ("---",) * 6]
    for rule in RULES.values():
        span = "all" if not (rule.since or rule.before) else _span(rule)
        rows.append((f"`{rule.id}`", rule.severity, rule.text, rule.remedy, span, rule.source))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _span(rule: Rule) -> str:
    return f"{rule.since} on" if rule.since else f"before {rule.before}"
