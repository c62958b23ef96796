"""Counting on modules that a real compiler wrote (hlo/make_graphs.py), and on damaged ones."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation import hlo
from evaluation.hlo import Call, GraphMacs, HloError

GRAPHS = Path(__file__).with_name("hlo")
COUNTS = {
    "prefill": GraphMacs(
        dot_macs=128 * 8 * 16 + 2 * 3 * 128 * 16 * 4,
        calls=(Call("kernels.moe.experts", 65536), Call("kernels.norm.rmsnorm", 0)),
        loops=0,
    ),
    "decode": GraphMacs(8 * 16 + 2 * 16 * 5 * 7, (Call("kernels.norm.rmsnorm", 0),), 0),
    "loop": GraphMacs(4 * 8 * 8, (), 1),
    "no_products": GraphMacs(0, (), 0),
}


def module_of(name: str) -> Any:
    """The parsed module of a graph, for tests to damage."""
    return hlo._message("Module").FromString((GRAPHS / f"{name}.pb").read_bytes())


def instructions(module: Any, opcode: str) -> list[Any]:
    return [i for c in module.computations for i in c.instructions if i.opcode == opcode]


@pytest.mark.parametrize("name", COUNTS)
def test_a_compiler_s_module_is_counted(name: str) -> None:
    assert hlo.count_file(GRAPHS / f"{name}.pb") == COUNTS[name]


def test_a_truncated_module_is_refused_or_complete() -> None:
    """A cut behind the last computation loses layouts and metadata, nothing that counts."""
    data = (GRAPHS / "prefill.pb").read_bytes()
    counted = []
    for length in range(len(data)):
        try:
            counted.append((length, hlo.count(data[:length])))
        except HloError as error:
            assert "truncated" in str(error)
    assert all(macs == COUNTS["prefill"] for _, macs in counted)
    assert not counted or counted[0][0] > 0.8 * len(data)


@pytest.mark.parametrize("data", [b"", b"\x00", b"HloModule text", b"{}", bytes(range(256))])
def test_what_is_no_module_is_refused(data: bytes) -> None:
    with pytest.raises(HloError, match="not an HLO module"):
        hlo.count(data)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(HloError, match=r"absent\.pb: cannot be read"):
        hlo.count_file(tmp_path / "absent.pb")
    (tmp_path / "empty.pb").touch()
    with pytest.raises(HloError, match=r"empty\.pb: not an HLO module"):
        hlo.count_file(tmp_path / "empty.pb")


def test_a_module_without_instructions_is_refused() -> None:
    module = module_of("prefill")
    for computation in module.computations:
        del computation.instructions[:]
    with pytest.raises(HloError, match="without instructions"):
        hlo.count(module.SerializeToString())


def _drop_operand(dot: Any) -> None:
    del dot.operand_ids[1:]


def _point_elsewhere(dot: Any) -> None:
    dot.operand_ids[0] = 10_000


def _contract_outside(dot: Any) -> None:
    dot.dot_dimension_numbers.rhs_contracting_dimensions[0] = 7


def _contract_other_size(dot: Any) -> None:
    dot.dot_dimension_numbers.lhs_contracting_dimensions[0] = 0


def _contract_less(dot: Any) -> None:
    del dot.dot_dimension_numbers.rhs_contracting_dimensions[:]


@pytest.mark.parametrize("damage, says", [
    (_drop_operand, "too few"),
    (_point_elsewhere, "operand 10000 is not in its computation"),
    (_contract_outside, "do not fit operands"),
    (_contract_other_size, "do not fit operands"),
    (_contract_less, "do not fit operands"),
])  # fmt: skip
def test_a_dot_that_cannot_be_counted_is_an_error(damage: Callable[[Any], None], says: str) -> None:
    module = module_of("prefill")
    damage(instructions(module, "dot")[0])
    with pytest.raises(HloError, match=says):
        hlo.count(module.SerializeToString())


def stated(config: Any) -> bytes:
    return base64.b64encode(json.dumps(config).encode())


@pytest.mark.parametrize("config, says", [
    (b"", "not JSON in base64"),
    (b"***", "not JSON in base64"),
    (base64.b64encode(b"{"), "not JSON in base64"),
    (base64.b64encode(b"\xff\xfe"), "not JSON in base64"),
    (stated([1]), "no JSON object"),
    (stated({"mac_count": None}), "mac_count is None"),
    (stated({"mac_count": "many"}), "mac_count is 'many'"),
    (stated({"mac_count": True}), "mac_count is True"),
    (stated({"mac_count": -1}), "mac_count is -1"),
    (stated({"mac_count": 1.5}), "mac_count is 1.5"),
    (stated({"mac_count": float("nan")}), "mac_count is nan"),
])  # fmt: skip
def test_a_count_that_cannot_be_read_is_an_error(config: bytes, says: str) -> None:
    module = module_of("prefill")
    instructions(module, "custom-call")[0].backend_config = config
    with pytest.raises(HloError, match=says):
        hlo.count(module.SerializeToString())


@pytest.mark.parametrize("config", [
    stated({"mac_count": "77"}),
    stated({"mac_count": 77.0}),
    b"\n".join([stated({"mac_count": 77})[:8], stated({"mac_count": 77})[8:]]),
])  # fmt: skip
def test_what_the_challenge_counts_is_counted(config: bytes) -> None:
    module = module_of("prefill")
    instructions(module, "custom-call")[0].backend_config = config
    assert hlo.count(module.SerializeToString()).calls[0] == Call(hlo.UNNAMED, 77)


def test_a_kernel_without_a_count_is_told() -> None:
    module = module_of("prefill")
    instructions(module, "custom-call")[0].backend_config = stated({"func_name": "k"})
    macs = hlo.count(module.SerializeToString())
    assert macs.calls[0] == Call("k", None) and macs.uncounted_calls == 1
    assert macs.nki_macs == sum(call.macs or 0 for call in macs.calls[1:])


def test_other_custom_calls_are_no_kernels() -> None:
    assert instructions(module_of("no_products"), "custom-call")
    assert hlo.count_file(GRAPHS / "no_products.pb").calls == ()
