"""The language check against an independent judge: klr-lang, a snapshot of the front end of 2025.

``klr.frontend.Kernel(f).specialize(...)`` gathers a kernel and simplifies its syntax. It is older
than the rules: releases from 2.27 on take what `NEWER` lists, and it refuses that. It also looks at
syntax only, not at names, built-in functions or calls. The tests skip where it is not installed
(``pip install --target FOLDER klr-lang==0.0.12`` and ``KLR_LANG=FOLDER``; not needed otherwise).
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nki_sim import lint

from . import lint_cases
from .lint_cases import CASES

FOLDER = os.environ.get("KLR_LANG", "no-klr-lang")

JUDGE = """
import sys
sys.path.insert(0, sys.argv[1])
import klr.frontend
import judged
try:
    klr.frontend.Kernel(judged.k).specialize(*[1.0] * max(1, judged.k.__code__.co_argcount))
    print("accepts", flush=True)
except Exception as error:
    print("refuses", str(error).splitlines()[0], flush=True)
"""
"""One source per process: the snapshot aborts its process now and then."""

NEWER = {
    "f-strings": "a = f'{1}'",
    "while": "i = 0\nwhile i < 3:\n    i += 1",
    "dicts": "a = {'b': 1}",
    "in": "if 1 in (1, 2):\n    pass",
}
"""What it refuses and later front ends take (2.27 already, by the notes and published kernels)."""

LEGAL = {
    "for": "for i in range(3):\n    a = i",
    "chain of names": "a = b = 1",
    "ternary": "a = 1 if x == None else 2",
    "assert": "assert 1 == 1, 'm'",
    "unpacking": "a, b = (1, 2)",
    "chained comparison": "a = 1\nif 0 < a < 3:\n    b = a",
    "slices": "a = (1, 2, 3)[0:2]",
    "lists": "a = [1]\na[0] = 2\na[0] += 1",
    "operators": "a = -1\nb = not True\nc = 2 ** 3\nd = 7 // 2\ne = 1 << 3",
}
"""What both accept."""


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory):
    """A function from named sources to the verdicts on them: True where they are refused."""
    environment = dict(os.environ, PYTHONPATH=f"{FOLDER}{os.pathsep}{Path(__file__).parents[2]}")
    probe = [sys.executable, "-c", "import klr.frontend"]
    if importlib.util.find_spec("klr") is None and (
        not Path(FOLDER, "klr").is_dir()
        or subprocess.run(probe, env=environment, capture_output=True).returncode
    ):
        pytest.skip("klr-lang is not installed")
    folder = tmp_path_factory.mktemp("judged")

    def verdicts(sources: dict[str, str], whole: bool = False) -> dict[str, bool]:
        found = {}
        for number, (name, source) in enumerate(sources.items()):
            text = source if whole else _without_nki(source)
            place = folder / str(number)
            place.mkdir(exist_ok=True)
            (place / "judged.py").write_text(text)
            command = [sys.executable, "-c", JUDGE, str(place)]
            out = subprocess.run(command, env=environment, capture_output=True, text=True).stdout
            found[name] = not out.startswith("accepts")
        return found

    return verdicts


def _without_nki(source: str) -> str:
    return lint_cases.module(source).removeprefix(lint_cases.HEAD).replace("@nki.jit\n", "")


def ours(folder: Path, source: str) -> list[str]:
    path = folder / "ours.py"
    path.write_text(lint_cases.module(source))
    return [f.rule for f in lint.check(f"{path}:k", ("2.28",))]


def test_it_refuses_what_the_rules_refuse(judge) -> None:
    marked = {f"{c.rule} {n}": c for n, c in enumerate(CASES) if c.oracle is not None}
    verdicts = judge({name: case.breaks for name, case in marked.items()})
    assert len(verdicts) > 25
    assert verdicts == {name: case.oracle for name, case in marked.items()}


def test_it_accepts_what_the_rules_accept(judge, tmp_path: Path) -> None:
    assert not any(judge(LEGAL).values())
    assert not [rule for source in LEGAL.values() for rule in ours(tmp_path, source)]


def test_where_it_is_older_than_the_rules(judge, tmp_path: Path) -> None:
    """If this fails, a newer snapshot is installed: move the entries to LEGAL."""
    assert all(judge(NEWER).values())
    assert not [rule for source in NEWER.values() for rule in ours(tmp_path, source)]


def test_whole_kernels_are_judged_alike(judge) -> None:
    """The examples without newer syntax, and the one that is broken for the compiler."""
    source = (
        "from nki_sim.install import install\ninstall()\n"
        "from tests.nki_sim.examples.{} import {} as kernel\nk = kernel.function\n"
    )
    legal = {name: source.format(name, name) for name in ("gather", "rmsnorm", "softmax", "topk")}
    broken = {"python": source.format("rmsnorm", "rmsnorm_in_python")}
    expected = dict.fromkeys(legal, False) | dict.fromkeys(broken, True)
    assert judge(legal | broken, whole=True) == expected
