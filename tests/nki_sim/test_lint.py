"""The language check: each rule on sources that break it and keep it, and on real kernels."""

from __future__ import annotations

import json
from pathlib import Path

import nki
import pytest

from nki_sim import lint
from nki_sim.lint import generate, rules, signatures
from nki_sim.lint.versions import RELEASES, VERSIONS, parse

from . import lint_cases
from .lint_cases import CASES, Case

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED = ROOT.parent / "shared" / "reference" / "nki_signatures.json"
KERNELS = sorted((ROOT / "kernels").glob("nki_*.py"))
NAMES = [f"{case.rule}-{number}" for number, case in enumerate(CASES)]


def write(folder: Path, source: str, name: str = "sample.py") -> Path:
    path = folder / name
    path.write_text(source)
    return path


def findings(folder: Path, source: str, versions: tuple[str, ...] = VERSIONS) -> list[lint.Finding]:
    return lint.check(f"{write(folder, lint_cases.module(source))}:k", versions)


def test_every_rule_has_a_case() -> None:
    assert {case.rule for case in CASES} == set(lint.RULES)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_broken_rule_is_found(case: Case, tmp_path: Path) -> None:
    found = [f for f in findings(tmp_path, case.breaks) if f.rule == case.rule]
    assert len(found) == 1, [str(f) for f in findings(tmp_path, case.breaks)]
    lines = lint_cases.module(case.breaks).splitlines()
    assert lines[found[0].line - 1].endswith("# $")
    assert found[0].versions == (case.versions or VERSIONS)
    assert found[0].severity == lint.RULES[case.rule].severity
    assert found[0].remedy and found[0].column >= 1
    assert f"[{case.rule}]" in str(found[0]) and "sample.py:" in str(found[0])


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_kept_rule_is_not(case: Case, tmp_path: Path) -> None:
    assert not [str(f) for f in findings(tmp_path, case.keeps) if f.rule == case.rule]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_finding_concerns_the_releases_asked_for(case: Case, tmp_path: Path) -> None:
    """Alone, a release is judged as it is beside the others (except what depends on a span)."""
    if case.rule in ("argument-order", "hbm-alias", "reduce-axis"):
        assert not [f for f in findings(tmp_path, case.breaks, ("2.31",)) if f.rule == case.rule]
        return
    for version in VERSIONS:
        found = [f for f in findings(tmp_path, case.breaks, (version,)) if f.rule == case.rule]
        assert [f.versions for f in found] == [(version,)] * (
            version in (case.versions or VERSIONS)
        )


@pytest.mark.parametrize("path", KERNELS, ids=lambda p: p.name)
def test_the_projects_kernels_are_portable(path: Path) -> None:
    module = lint.check.__globals__["parse"](path)
    kernels = [n for n, d in module.definitions.items() if n.endswith("_kernel")]
    # Collectives came with 2.28; kernels that need them stand in files of their own.
    versions = VERSIONS[1:] if "nki.collectives" in path.read_text() else VERSIONS
    for kernel in kernels:
        assert not [str(f) for f in lint.check(f"{path}:{kernel}", versions)]


# -- what is reached -------------------------------------------------------------------------------


def test_helpers_in_other_files_are_reached(tmp_path: Path) -> None:
    package = tmp_path / "parts"
    package.mkdir()
    write(package, "", "__init__.py")
    middle = "from .deep import LIMIT, inner\n\n\ndef outer(a):\n    return inner(a) + LIMIT\n"
    write(package, middle,
          "middle.py")  # fmt: skip
    write(package, "LIMIT = [1]\n\n\ndef inner(a):\n    return sum(a)\n\n\ndef unused(a):\n"
          "    return sorted(a)\n", "deep.py")  # fmt: skip
    write(package, "from parts.middle import outer as renamed\n", "front.py")
    source = "import parts.middle\nfrom parts.front import renamed\ndef k(x):\n    renamed(x)\n"
    source += "    parts.middle.outer(x)\n    return x\n"
    found = findings(tmp_path, source)
    assert [(Path(f.file).name, f.rule) for f in found] == [
        ("deep.py", "builtin"), ("middle.py", "mutable-global"),
    ]  # fmt: skip


def test_functions_passed_as_values_are_reached(tmp_path: Path) -> None:
    source = "def g(a):\n    return sum(a)\ndef h(f, a):\n    return f(a)\n"
    source += "def k(x):\n    h(g, (1, 2))\n    return x\n"
    assert [f.rule for f in findings(tmp_path, source)] == ["builtin"]


def test_recursion_and_methods_are_visited_once(tmp_path: Path) -> None:
    source = (
        "class A(nl.NKIObject):\n    a: int\n    def total(self):\n        return sum((self.a,))\n"
    )
    source += "def g(a):\n    return g(a - 1) + sum((a,))\n"
    source += "def k(x):\n    b = A(1)\n    g(b.total())\n    return x\n"
    assert [f.rule for f in findings(tmp_path, source)] == ["builtin", "builtin"]


def test_functions_are_taken_as_objects() -> None:
    def helper(a):
        return [b for b in a]

    @nki.jit
    def kernel(x):
        return helper(x)

    def plain(x):
        return helper(x)

    for one in (kernel, kernel[1], plain, nki.jit(plain)):
        (found,) = lint.check(one)
        assert found.rule == "comprehension" and found.file == __file__


def test_a_file_is_checked_kernel_by_kernel(tmp_path: Path) -> None:
    source = lint_cases.HEAD + "@nki.jit\ndef a(x):\n    return sum(x)\n\n\n"
    source += (
        "@nki.jit\ndef b(x):\n    return any(x)\n\n\ndef host(x):\n    return [y for y in x]\n"
    )
    path = write(tmp_path, source)
    assert [f.line for f in lint.check(path)] == [6, 11]
    assert [f.line for f in lint.check(f"{path}:b")] == [11]
    assert [f.rule for f in lint.check(f"{path}:host")] == ["comprehension"]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    assert len(findings(tmp_path, "a = sum((1, 2))")) == 1
    assert not findings(tmp_path, "a = len((1, 2)) + 1")


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        ("absent.py", FileNotFoundError, "absent.py"),
        ("plain.py", ValueError, "no function decorated"),
        ("plain.py:absent", ValueError, "no function absent"),
        ("broken.py", SyntaxError, "broken.py"),
    ],
)
def test_what_cannot_be_checked_is_said(
    tmp_path: Path, wanted: str, error: type[Exception], message: str
) -> None:
    write(tmp_path, "def f(x):\n    return x\n", "plain.py")
    write(tmp_path, "def f(x:\n", "broken.py")
    with pytest.raises(error, match=message):
        lint.check(f"{tmp_path}/{wanted}")


def test_versions() -> None:
    assert parse(["2.31", "0.2.0"]) == ("2.27", "2.28", "2.31")
    assert tuple(RELEASES) == VERSIONS
    with pytest.raises(ValueError, match=r"'2\.26' is not known; choose from 2\.27"):
        parse(["2.26"])
    with pytest.raises(ValueError, match="no version"):
        lint.check(KERNELS[0], ())


def test_names_repeat_over_branches_only(tmp_path: Path) -> None:
    memset = "nisa.memset(dst=t, value=0.0, name='a')"
    lines = [lint_cases.TILE, "if x == None:", f"    {memset}", memset]
    found = [f for f in findings(tmp_path, "\n".join(lines)) if f.rule == "duplicate-name"]
    assert len(found) == 1


# -- tables ----------------------------------------------------------------------------------------


def test_the_table_of_signatures_is_the_documented_one() -> None:
    if not DOCUMENTED.is_file():
        pytest.skip("the listing of documented signatures is not here")
    listing = json.loads(DOCUMENTED.read_text())
    written = signatures.TABLE.read_text()
    assert written == generate.HEADER + "\n".join(generate.lines(listing)) + "\n"
    for full, versions in listing.items():
        version = full.removesuffix(".0")
        for module, names in versions.items():
            for name, documented in names.items():
                entry = signatures.table()[f"{module}.{name}"][version]
                if isinstance(documented, list):
                    expected = [p.split("=")[0] for p in documented]
                    assert [p.name for p in entry.parameters or ()] == expected


def test_the_readmes_rules_are_generated() -> None:
    readme = (ROOT / "nki_sim" / "README.md").read_text()
    begin, end = "<!-- begin rules -->\n", "<!-- end rules -->"
    assert readme.split(begin)[1].split(end)[0].strip() == rules.markdown().strip()
