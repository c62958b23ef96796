"""The vendor's surface: every documented name exists, in order, and says what it lacks."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import nki
import nki.collectives
import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest

from nki_sim import table
from nki_sim.engines import INSTRUCTIONS
from nki_sim.errors import IllegalProgram, NotModelled

from .support import in_kernel, tile

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED = ROOT.parent / "shared" / "reference" / "nki_signatures.json"
MODULES = {"nki.isa": nisa, "nki.language": nl, "nki.collectives": nki.collectives, "nki": nki}
PRIVATE = {"_TileSize"}


def documented() -> dict[str, Any]:
    if not DOCUMENTED.is_file():
        pytest.skip("the listing of documented signatures is not here")
    return json.loads(DOCUMENTED.read_text())


@pytest.mark.parametrize("module", MODULES)
def test_every_documented_name_exists(module: str) -> None:
    for version, modules in documented().items():
        missing = [
            name
            for name in modules.get(module, {})
            if not hasattr(MODULES[module], name) and name not in PRIVATE
        ]
        assert not missing, (version, missing)


@pytest.mark.parametrize("instruction", INSTRUCTIONS, ids=lambda i: i.opcode)
def test_parameters_are_the_documented_ones(instruction: Any) -> None:
    """In the order of SDK 2.32; every name of an earlier version is accepted too."""
    ours = inspect.signature(getattr(nisa, instruction.opcode)).parameters
    versions = documented()
    newest = [entry.split("=")[0] for entry in versions["2.32.0"]["nki.isa"][instruction.opcode]]
    positional = [n for n, p in ours.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert positional == newest
    for version, modules in versions.items():
        names = {entry.split("=")[0] for entry in modules["nki.isa"][instruction.opcode]}
        assert names <= set(ours), version


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (m, n)
        for m in ("nki.isa", "nki.language", "nki.collectives")
        for n in MODULES[m].NOT_MODELLED
    ],
)
def test_what_is_not_modelled_says_so(module: str, name: str) -> None:
    with pytest.raises(NotModelled, match=name):
        getattr(MODULES[module], name)(1, x=2)


def test_values_that_are_not_modelled_say_so() -> None:
    def calls() -> list[Any]:
        t, psum = tile((4, 4)), nl.ndarray((4, 4), dtype=nl.float32, buffer=nl.psum)
        return [
            lambda: nisa.dma_copy(dst=t, src=t, dst_rmw_op=nl.add),
            lambda: nisa.dma_copy(dst=t, src=t, unique_indices=False),
            lambda: nisa.nc_matmul(dst=psum, stationary=t, moving=t, perf_mode="double_row"),
            lambda: nisa.tensor_tensor(dst=t, data1=t, data2=t, op=nl.abs_max),
            lambda: nl.ndarray((4, 4), dtype=nl.float32, address=(0, 0)),
            lambda: nl.add(t, t),
        ]

    def body(number: int) -> None:
        calls()[number]()

    for number in range(6):
        with pytest.raises(NotModelled):
            in_kernel(body, number)


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
