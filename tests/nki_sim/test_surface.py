"""The vendor's surface: every documented name exists, in order, and says what it lacks."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nki
import nki.collectives
import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest

from nki_sim import table
from nki_sim.errors import IllegalProgram, NotModelled
from nki_sim.install import SimulatorFinder

from .support import in_kernel, tile

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED = ROOT.parent / "shared" / "reference" / "nki_signatures.json"
MODULES = {"nki.isa": nisa, "nki.language": nl, "nki.collectives": nki.collectives, "nki": nki}

REORDERED = "the order changed later; published kernels of that time pass keywords"
INSERTED = "a parameter was put before the last ones later; pass those by keyword"
DEVIATIONS: dict[tuple[str, str, str], tuple[str, str]] = {
    ("nki.isa", "affine_select", "order"): ("2.28", REORDERED),
    ("nki.isa", "dma_compute", "order"): ("2.29", REORDERED),
    ("nki.isa", "dma_copy", "order"): ("2.29", REORDERED),
    ("nki.isa", "dma_transpose", "order"): ("2.29", INSERTED),
    ("nki.isa", "nc_matmul", "order"): ("2.28", INSERTED),
    ("nki.isa", "nc_matmul_mx", "order"): ("2.28", INSERTED),
    ("nki.isa", "register_move", "order"): ("2.28", "the second parameter was called imm"),
    ("nki.isa", "sendrecv", "order"): ("2.28", INSERTED),
    ("nki.isa", "tensor_scalar_reduce", "order"): ("2.31", INSERTED),
    ("nki.collectives", "collective_permute_implicit_current_processing_rank_id", "order"): (
        "2.28",
        "num_channels was removed, name came instead",
    ),
    ("nki", "jit", "order"): ("2.29", "func is fn now, mode a keyword without effect"),
    ("nki.language", "_TileSize", "name"): ("2.32", "the private class of nl.tile_size"),
}
"""What differs from a listing: (module, name, kind) to the last release concerned, and why."""


def documented() -> dict[str, Any]:
    if not DOCUMENTED.is_file():
        pytest.skip("the listing of documented signatures is not here")
    return json.loads(DOCUMENTED.read_text())


def differences(module: str, name: str, entry: Any) -> set[str]:
    """How our object differs from one documented entry: name, members, parameters, order, ..."""
    found = getattr(MODULES[module], name, None)
    if found is None:
        return {"name"}
    if isinstance(entry, dict):
        members = [m for m in entry["class"] if not hasattr(found, m)]
        return {f"members {members}"} if members else set()
    if not isinstance(entry, list):
        return set()
    ours = inspect.signature(found).parameters
    any_keyword = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in ours.values())
    plain = [text.split("=")[0] for text in entry if not text.startswith("*")]
    optional = [text.split("=")[0] for text in entry if "=" in text]
    empty = inspect.Parameter.empty
    unnamed = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    positional = [
        n for n, p in ours.items() if p.kind not in (inspect.Parameter.KEYWORD_ONLY, *unnamed)
    ]
    seen = set()
    if not any_keyword and not set(plain) <= set(ours):
        seen.add(f"parameters {sorted(set(plain) - set(ours))}")
    if positional[: len(plain)] != plain:
        seen.add("order")
    if any(n in ours and ours[n].default is empty for n in optional):
        seen.add("a required parameter that was optional")
    needed = {n for n, p in ours.items() if p.default is empty and p.kind not in unnamed}
    if needed - set(plain) and "order" not in seen:
        seen.add(f"required {sorted(needed - set(plain))}")
    return seen


@pytest.mark.parametrize("module", MODULES)
def test_every_name_and_parameter_of_every_release(module: str) -> None:
    """All names exist and take all parameters of all releases, in their order, but for the table
    of deviations, in which nothing is out of date either.
    """
    last: dict[tuple[str, str, str], str] = {}
    for version, modules in documented().items():
        for name, entry in modules.get(module, {}).items():
            for kind in differences(module, name, entry):
                last[(module, name, kind)] = version.removesuffix(".0")
    listed = {key: until for key, (until, _) in DEVIATIONS.items() if key[0] == module}
    assert last == listed


def test_the_newest_names_are_in_the_newest_order() -> None:
    newest = documented()["2.32.0"]
    for (module, name, kind), (until, _) in DEVIATIONS.items():
        if until != "2.32":
            assert kind not in differences(module, name, newest[module][name]), name


def real_package() -> Any:
    """The vendor's package, if there is one besides ours."""
    for finder in sys.meta_path:
        if not isinstance(finder, SimulatorFinder) and hasattr(finder, "find_spec"):
            spec = finder.find_spec("nki", None, None)
            if spec is not None and spec.loader is not None and spec.origin is not None:
                return spec
    return pytest.skip("the vendor's package is not installed")


SIGNATURES = """
import inspect, json, importlib
found = {}
for module in ("nki", "nki.isa", "nki.language", "nki.collectives"):
    loaded = importlib.import_module(module)
    for name, value in vars(loaded).items():
        if name.startswith("_") or inspect.ismodule(value):
            continue
        entry = "value"
        if inspect.isroutine(value):
            parameters = inspect.signature(value).parameters.values()
            entry = [str(p).split(":")[0].split("=")[0].strip() for p in parameters]
            entry = [e + "=" * (p.default is not p.empty) for e, p in zip(entry, parameters)]
        found.setdefault(module, {})[name] = entry
print(json.dumps(found))
"""


def test_against_the_real_package() -> None:
    """Every public function of the installed package, in a process without our finder."""
    real_package()
    environment = {k: v for k, v in os.environ.items() if k != "NKI_SIMULATOR"}
    printed = subprocess.run(
        [sys.executable, "-c", SIGNATURES], env=environment, capture_output=True, text=True
    )
    if printed.returncode:
        pytest.skip(f"the vendor's package cannot be imported: {printed.stderr[-200:]}")
    wrong = {
        f"{module}.{name}": seen
        for module, names in json.loads(printed.stdout).items()
        for name, entry in names.items()
        if isinstance(entry, list) and (seen := differences(module, name, entry))
    }
    assert not wrong


def test_values_that_are_not_modelled_say_so() -> None:
    def body() -> None:
        t = tile((4, 4))
        nisa.topk(val_dst=t, idx_dst=t, src=t, n=8, sorted=True)

    with pytest.raises(NotModelled, match="sorted=True"):
        in_kernel(body)


def test_illegal_values_name_the_legal_ones() -> None:
    def divide() -> None:
        t = tile((4, 4))
        nisa.tensor_tensor(dst=t, data1=t, data2=t, op=nl.divide)

    with pytest.raises(IllegalProgram, match=r"op must be one of nl.add, nl.subtract"):
        in_kernel(divide)
    with pytest.raises(IllegalProgram, match=r"takes one of OobMode\.error, OobMode\.skip"):
        in_kernel(lambda: nisa.dma_copy(dst=tile((4, 4)), src=tile((4, 4)), oob_mode="skip"))


def test_integer_enumerations_warn() -> None:
    def body() -> None:
        nisa.dma_copy(dst=tile((4, 4)), src=tile((4, 4)), dge_mode=3)

    with pytest.warns(UserWarning, match="refused from SDK 2.29"):
        in_kernel(body)


def test_types_and_memories_compare_as_published_kernels_do() -> None:
    assert nl.bfloat16 == "bfloat16" and str(nl.float32) == "float32" and nl.bool_ == "bool"
    assert nl.hbm is nl.private_hbm and nl.sbuf in (nl.sbuf, nl.psum)
    assert nl.tile_size.pmax == 128 and nl.tile_size.psum_fmax == 512
    assert nisa.vector_engine is nisa.engine.vector
    assert list(nl.affine_range(3)) == list(nl.static_range(0, 3)) == [0, 1, 2]
    with nl.no_reorder():
        pass


def test_objects_get_a_constructor() -> None:
    class Config(nl.NKIObject):
        rows: int
        columns: int = 4
        scale = 2.0

        def __post_init__(self) -> None:
            self.area = (self.rows or 0) * self.columns

    assert Config(3, scale=1.0).area == 12
    assert Config().rows is None and Config().scale == 2.0
    with pytest.raises(IllegalProgram, match="has the fields rows, columns, scale"):
        Config(wrong=1)


def test_shared_identity_matrix_and_device_print(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> None:
        identity = nl.shared_identity_matrix(5, dtype=nl.float32)
        np.testing.assert_array_equal(identity.array, np.eye(5))
        nl.device_print("identity", identity[0:1, 0:2])

    in_kernel(body)
    assert capsys.readouterr().out == "identity [[1. 0.]]\n"


def test_the_readmes_table_is_generated() -> None:
    readme = (ROOT / "nki_sim" / "README.md").read_text()
    begin, end = "<!-- begin table -->\n", "<!-- end table -->"
    assert readme.split(begin)[1].split(end)[0].strip() == table.markdown().strip()


def test_the_readmes_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (ROOT / "nki_sim" / "README.md").read_text()
    exec(readme.split("```python\n")[1].split("```")[0], {})
    assert "'dma': 2, 'vector': 1" in capsys.readouterr().out
