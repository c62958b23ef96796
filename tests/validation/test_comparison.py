"""The comparison with published measurements: points, programs, statistics, outputs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import yaml

from nki_sim.latency import Range, load
from validation.comparison import Point, compare, load_points, rank_correlation, summary
from validation.programs import decode, matmul, vector
from validation.report import figure, markdown
from validation.workloads import WORKLOADS

ROOT = Path(__file__).resolve().parents[2]
POINTS = load_points()


def point(number: int, value: float, **settings) -> Point:
    names = {"group": "streaming", "unit": "us", "source": "a paper", "program": "fixed"}
    return Point(id=f"p{number}", platform="trn2", value=value, **names | settings)


def rows_of(points: list[Point], modelled: list[float]) -> list[dict]:
    found = iter(modelled)
    workloads = {"fixed": lambda platform: Range(*(x * 1e3 for x in (1.0, next(found), 1e6)))}
    return [compare(one, workloads) for one in points]


def test_every_point_has_a_program_and_a_source() -> None:
    assert len(POINTS) > 80
    for one in POINTS:
        assert one.program in WORKLOADS and one.source, one.id


def test_used_points_name_constants() -> None:
    for one in POINTS:
        for name in filter(None, one.used.split(", ")):
            assert name in load("trn2").constants, f"{one.id}: {name}"
    assert any(not one.used for one in POINTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"unit": "years"}, "no measurement"), ({"value": 0}, "no measurement"), ({"x": 1}, "x")],
)
def test_a_bad_point_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    entry = {
        "id": "a", "group": "g", "platform": "trn2", "value": 1.0, "unit": "ns", "source": "s",
        "program": "p",
    }  # fmt: skip
    file = tmp_path / "points.yaml"
    file.write_text(yaml.safe_dump([entry | change]))
    with pytest.raises(ValueError, match=message):
        load_points(file)
    file.write_text(yaml.safe_dump([entry, entry]))
    with pytest.raises(ValueError, match="used twice: a"):
        load_points(file)


def test_errors_are_split_into_used_and_held_out() -> None:
    points = [point(0, 100.0), point(1, 100.0), point(2, 100.0), point(3, 100.0, used="dma.start")]
    result = summary(rows_of(points, [109.0, 95.0, 140.0, 100.0]))["groups"]["streaming"]
    assert result["held_out"]["points"] == 3 and result["used"]["points"] == 1
    assert result["held_out"]["median"] == pytest.approx(0.09)
    assert result["held_out"]["bias"] == pytest.approx(0.09)
    assert result["held_out"]["p90"] == pytest.approx(0.338)
    assert result["met"] is True and result["used"]["median"] == 0


def test_a_missed_target_is_called_so() -> None:
    rows = rows_of([point(0, 100.0)], [120.0])
    assert summary(rows)["groups"]["streaming"]["met"] is False
    assert "missed" in markdown({"points": rows, "summary": summary(rows)})


def test_rank_correlation_by_hand() -> None:
    assert rank_correlation([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert rank_correlation([1, 1, 2], [1, 1, 2]) == pytest.approx(1)


def test_ladders_need_three_variants() -> None:
    points = [point(n, 100.0 + n, ladder="l" if n < 3 else "short") for n in range(5)]
    result = summary(rows_of(points, [1.0, 2.0, 3.0, 4.0, 5.0]))["ladders"]
    assert set(result) == {"l"} and result["l"]["met"] is True


# -- the programs compute what they say ------------------------------------------------------------


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("kernel", "settings"),
    [
        (matmul.naive, ()),
        (matmul.hoisted, (1,)),
        (matmul.blocked, (2, 1)),
        (matmul.split_depth, (1, 2, 1)),
        (matmul.one_bank, ()),
    ],
)
def test_products(kernel, settings: tuple) -> None:
    lhs_t, rhs = normal(256, 256), normal(256, 1024)
    np.testing.assert_allclose(kernel(lhs_t, rhs, *settings), lhs_t.T @ rhs, rtol=1e-3, atol=1e-3)


def test_batched_products() -> None:
    lhs_t, rhs = normal(2, 64, 128), normal(2, 64, 512)
    expected = np.einsum("bkm,bkn->bmn", lhs_t, rhs)
    np.testing.assert_allclose(matmul.batched(lhs_t, rhs), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("hoist", [True, False])
def test_scan(hoist: bool) -> None:
    delta, u = np.abs(normal(128, 64)) * 0.1, normal(128, 64) + 0.5
    a, b, c = -np.abs(normal(128, 2)), normal(2, 64) * 0.5, normal(2, 64) * 0.25
    state, expected = np.zeros((128, 2)), np.zeros((128, 64))
    for t in range(64):
        step = delta[:, t : t + 1]
        state = np.exp(step * a) * state + step * u[:, t : t + 1] * b[:, t]
        expected[:, t] = state @ c[:, t]
    got = vector.scan(delta, u, a, b, c, 32, hoist)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


def test_rotate() -> None:
    x, cosine, sine = normal(2, 128, 64), normal(64, 64), normal(64, 64) * 2
    first, second = x[:, :64], x[:, 64:]
    expected = np.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine], axis=1
    )
    np.testing.assert_allclose(vector.rotate(x, cosine, sine, 32), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize(("norm", "gated"), [(True, True), (False, True), (True, False)])
def test_mlp(cores: int, norm: bool, gated: bool) -> None:
    bf16 = ml_dtypes.bfloat16
    x = normal(3, 512).astype(bf16)
    gate, up = ((normal(512, 192 + n)[:, :192] * 0.05).astype(bf16) for n in range(2))
    down = (normal(192, 512) * 0.1).astype(bf16)
    h = x.astype(np.float64)
    if norm:
        h = h / np.sqrt((h**2).mean(axis=1, keepdims=True))
    gate_out, up_out = h @ gate.astype(np.float64), h @ up.astype(np.float64)
    inside = gate_out if gated else up_out
    product = inside / (1 + np.exp(-inside)) * (up_out if gated else 1)
    expected = product @ down.astype(np.float64)
    got = decode.mlp[cores](x, gate, up, down, norm, gated).astype(np.float64)
    assert np.abs(got - expected).max() < 0.03 * np.abs(expected).max()


# -- as a program ----------------------------------------------------------------------------------


def test_the_command_writes_everything(tmp_path: Path) -> None:
    names = ("latency.json", "latency.md", "latency.pdf", "latency.png")
    files = [tmp_path / name for name in names]
    command = [sys.executable, "-m", "validation", "--only", "act", "--output", str(files[0])]
    command += ["--table", str(files[1]), "--pdf", str(files[2]), "--png", str(files[3])]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    result = json.loads(files[0].read_text())
    assert result["basis"] == "modelled" and len(result["points"]) == 3
    for row in result["points"]:
        ends = row["modelled"]
        assert ends["low"] <= ends["nominal"] <= ends["high"]
        assert row["error"] == pytest.approx(ends["nominal"] / row["published"] - 1)
    assert files[1].read_text() == markdown(result)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)


def test_no_point_is_an_error() -> None:
    command = [sys.executable, "-m", "validation", "--only", "nothing", "--output", "unwritten"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 2 and "no point matches" in ran.stderr
    assert not (ROOT / "unwritten").exists()


def test_a_figure_of_any_group(tmp_path: Path) -> None:
    rows = rows_of([point(0, 100.0), point(1, 50.0, used="dma.start")], [110.0, 60.0])
    figure({"points": rows}, tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 1000
