"""The latency model on programs whose times can be worked out by hand, and its files."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import nki
import nki.collectives as ncc
import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest
import yaml

import nki_sim
from nki_sim import ranks
from nki_sim.cli import main
from nki_sim.latency import HardwareError, hardware, load, predict
from nki_sim.placeholders import Placeholder
from nki_sim.trace import Launch

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = "tests/nki_sim/examples/matmul.py"


def recorded(kernel, *arguments, cores: int = 1) -> Launch:
    with nki_sim.mode("shapes"), nki_sim.record() as recording:
        launched = nki.jit(kernel)
        (launched[cores] if cores > 1 else launched)(*arguments)
    return recording.launches[0]


def nominal_us(launch: Launch, platform: str = "trn2") -> float:
    return predict(launch, platform).time_us.nominal


def filled(width: int, dtype=nl.float32, buffer=nl.sbuf, engine=nisa.engine.vector):
    tile = nl.ndarray((128, width), dtype=dtype, buffer=buffer)
    nisa.memset(dst=tile, value=1.0, engine=engine)
    return tile


# -- constants -------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", hardware.PLATFORMS)
def test_every_constant_has_a_source_and_a_confidence(platform: str) -> None:
    found = load(platform)
    assert found.platform == platform and len(found.constants) > 40
    for name, one in found.constants.items():
        assert one.source and one.unit and one.confidence in hardware.CONFIDENCES, name
        if one.confidence in ("assumed", "fitted"):
            assert one.fastest != one.slowest, f"{name} is uncertain and has no range"


@pytest.mark.parametrize("platform", hardware.PLATFORMS)
def test_the_ends_of_a_range_are_what_they_are_called(platform: str) -> None:
    """A smaller rate, share or room and a longer time are slower."""
    found = load(platform)
    for name, one in found.assumptions().items():
        better_high = one.unit in ("GB/s", "B/ns", "share", "exponent")
        assert (one.fastest > one.slowest) == better_high, name


def test_the_configuration_shows_the_same_files() -> None:
    assert (ROOT / "config" / "hardware").resolve() == hardware.FOLDER


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": "fast"}, "needs value"),
        ({"source": None}, "needs value"),
        ({"confidence": "sure"}, "confidence is one of"),
        ({"range": [1.0, 2.0]}, "outside its range"),
    ],
)
def test_a_bad_constant_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    content = yaml.safe_load((hardware.FOLDER / "trn2.yaml").read_text())
    content["tensor"]["clock"] |= change
    file = tmp_path / "chip.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(HardwareError, match=message) as caught:
        load(file)
    assert "tensor.clock" in str(caught.value)


def test_missing_constants_and_platforms_are_refused(tmp_path: Path) -> None:
    content = yaml.safe_load((hardware.FOLDER / "trn2.yaml").read_text())
    del content["dma"]["start"]
    file = tmp_path / "chip.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(HardwareError, match=r"dma\.start"):
        load(file)
    with pytest.raises(HardwareError, match="trn9: no platform"):
        load("trn9")


def test_an_own_file_of_constants(tmp_path: Path) -> None:
    content = yaml.safe_load((hardware.FOLDER / "trn2.yaml").read_text())
    content["tensor"]["clock"]["value"] = 1.2
    file = tmp_path / "half.yaml"
    file.write_text(yaml.safe_dump(content))
    launch = recorded(products, 64)
    assert nominal_us(launch, file) > 1.8 * nominal_us(launch)


def test_a_launch_that_was_not_recorded_is_refused() -> None:
    with pytest.raises(ValueError, match=r"nki_sim\.record"):
        predict(Launch("kernel", issued=3))


# -- engines ---------------------------------------------------------------------------------------


def products(count: int, columns: int = 512, dtype=nl.bfloat16) -> None:
    tile = filled(512, dtype)
    total = nl.ndarray((128, columns), dtype=nl.float32, buffer=nl.psum)
    for _ in range(count):
        nisa.nc_matmul(dst=total, stationary=tile[:, 0:128], moving=tile[:, 0:columns])


def interval_ns(kernel, count: int, *arguments, platform: str = "trn2") -> float:
    times = [nominal_us(recorded(kernel, n, *arguments), platform) for n in (count, 2 * count)]
    return (times[1] - times[0]) / count * 1e3


@pytest.mark.parametrize(
    ("columns", "dtype", "cycles"),
    [
        (512, nl.bfloat16, 512),
        (128, nl.bfloat16, 128),
        (512, nl.float32, 4 * 512),
        (1, nl.bfloat16, 64 + 51),  # nothing hides the stationary operand
    ],
)
def test_matmuls_stream_their_columns(columns: int, dtype, cycles: int) -> None:
    assert interval_ns(products, 64, columns, dtype) == pytest.approx(cycles / 2.4)


def copies(count: int, width: int, dtype, source=nl.sbuf, step: int = 1) -> None:
    tile = filled(width * step, dtype, source)
    for _ in range(count):
        result = nl.ndarray((128, width), dtype=dtype, buffer=nl.sbuf)
        window = tile[:, 0 : width * step : step]
        nisa.tensor_copy(dst=result, src=window, engine=nisa.engine.vector)


@pytest.mark.parametrize(
    ("dtype", "source", "step", "platform", "cycles"),
    [
        (nl.float32, nl.sbuf, 1, "trn2", 512 + 20),
        (nl.bfloat16, nl.sbuf, 1, "trn2", 128 + 20),
        (nl.bfloat16, nl.sbuf, 2, "trn2", 256 + 20),
        (nl.bfloat16, nl.psum, 1, "trn2", 256 + 20),
        (nl.bfloat16, nl.sbuf, 1, "trn1", 512 + 20),
    ],
)
def test_performance_modes(dtype, source, step: int, platform: str, cycles: int) -> None:
    clock = load(platform).constants["vector.clock"].value
    found = interval_ns(copies, 16, 512, dtype, source, step, platform=platform)
    assert found == pytest.approx(cycles / clock)


def test_a_dependent_instruction_waits_for_the_pipeline() -> None:
    def chain(count: int) -> None:
        tile = filled(1)
        for _ in range(count):
            nisa.activation(dst=tile, op=nl.copy, data=tile)

    assert interval_ns(chain, 16) == pytest.approx(352 / 1.2)


def test_trn1_shares_the_port_between_vector_and_gpsimd() -> None:
    def both(count: int) -> None:
        left, right = filled(512), filled(512, engine=nisa.engine.gpsimd)
        for _ in range(count):
            nisa.tensor_scalar(dst=left, data=left, op0=nl.multiply, operand0=2.0)
            nisa.tensor_copy(dst=right, src=right, engine=nisa.engine.gpsimd)

    launch = recorded(both, 16)
    together, apart = (predict(launch, p).occupancy for p in ("trn1", "trn2"))
    assert together["vector"] + together["gpsimd"] <= 1 + 1e-9
    assert apart["vector"] + apart["gpsimd"] > 1.1


def test_a_table_is_loaded_once_per_function() -> None:
    def functions(count: int) -> None:
        tile = filled(512)
        for _ in range(count):
            for op in (nl.exp, nl.silu):
                nisa.activation(dst=tile, op=op, data=tile)

    plan = predict(recorded(functions, 4), "trn2").plan
    tables = [getattr(plan.task(number), "table", False) for number in range(len(plan.events))]
    assert tables == [False, True, True, *[False] * 6]


# -- DMAs ------------------------------------------------------------------------------------------


def load_tiles(x, count: int, rows: int = 128) -> None:
    for _ in range(count):
        tile = nl.ndarray((rows, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[0:rows])


def dma_interval_ns(width: int, rows: int = 128) -> float:
    x = Placeholder((128, width), "float32")
    times = [nominal_us(recorded(load_tiles, x, n, rows)) for n in (8, 16)]
    return (times[1] - times[0]) / 8 * 1e3


def test_small_dmas_are_limited_by_their_issue_and_large_ones_by_the_engines() -> None:
    values = load("trn2").values()
    assert dma_interval_ns(16) == pytest.approx(values["dma.hardware_issue"])
    row = 4096 * 4
    expected = 8 * (row / values["dma.engine_rate"] + values["dma.descriptor"])
    assert dma_interval_ns(4096) == pytest.approx(expected)


def test_short_runs_cost_descriptors() -> None:
    def strided(x) -> None:
        tile = nl.ndarray((128, 512), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[:, 0:1024:2])

    def dense(x) -> None:
        tile = nl.ndarray((128, 512), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[:, 0:512])

    x = Placeholder((128, 1024), "float32")
    assert nominal_us(recorded(strided, x)) > 4 * nominal_us(recorded(dense, x))


def test_few_partitions_reach_few_engines() -> None:
    x = Placeholder((128, 8192), "float32")
    all_rows, eight = (nominal_us(recorded(load_tiles, x, 1, rows)) for rows in (128, 8))
    assert all_rows - 2 == pytest.approx(eight - 2, rel=0.6)  # a sixteenth of the bytes


def test_gathers_are_described_by_gpsimd() -> None:
    def gather(table, count: int) -> None:
        index = nl.ndarray((128, 1), dtype=nl.int32, buffer=nl.sbuf)
        nisa.iota(dst=index, pattern=[[0, 1]], offset=0, channel_multiplier=1)
        for _ in range(count):
            rows = table.ap(pattern=[[64, 128], [1, 64]], offset=0, vector_offset=index)
            tile = nl.ndarray((128, 64), dtype=table.dtype, buffer=nl.sbuf)
            nisa.dma_copy(dst=tile, src=rows)

    table = Placeholder((512, 64), "float32")
    times = [nominal_us(recorded(gather, table, n)) for n in (8, 16)]
    expected = load("trn2").constants["dma.software_issue"].value
    assert (times[1] - times[0]) / 8 * 1e3 == pytest.approx(expected)


# -- two cores -------------------------------------------------------------------------------------


def test_cores_that_stream_share_hbm() -> None:
    x = Placeholder((128, 16384), "float32")
    launch, alone = (recorded(load_tiles, x, 2, cores=n) for n in (2, 1))
    values = load("trn2").values()
    rate = values["memory.hbm_rate"] * values["memory.hbm_efficiency"]
    moved = 2 * 2 * 128 * 16384 * 4
    assert nominal_us(launch) * 1e3 > moved / rate
    assert nominal_us(alone) < 0.8 * nominal_us(launch)


def test_other_cores_take_their_share_of_hbm() -> None:
    launch = recorded(load_tiles, Placeholder((128, 16384), "float32"), 2)
    alone, beside = (predict(launch, "trn2", streaming_cores=n) for n in (1, 2))
    assert alone.time_us == predict(launch, "trn2").time_us
    assert beside.time_us.nominal > 1.2 * alone.time_us.nominal and beside.bound == "HBM"
    with pytest.raises(ValueError, match="on 1 cores"):
        predict(launch, "trn2", streaming_cores=0)


def test_cores_meet() -> None:
    def meeting(x) -> None:
        tile = filled(512)
        for _ in range(40 * (1 - nl.program_id(0))):
            nisa.tensor_scalar(dst=tile, data=tile, op0=nl.multiply, operand0=2.0)
        other = 1 - nl.program_id(0)
        theirs = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
        nisa.sendrecv(src=tile, dst=theirs, send_to_rank=other, recv_from_rank=other, pipe_id=0)

    found = predict(recorded(meeting, Placeholder((1, 1), "float32"), cores=2), "trn2")
    starts = [
        found.timing.start[n]
        for n, event in enumerate(found.plan.events)
        if event.opcode == "sendrecv"
    ]
    ends = [found.timing.end[n] for n, e in enumerate(found.plan.events) if e.opcode == "sendrecv"]
    assert ends[0] == ends[1] and min(starts) >= 40 * 512 / 0.96
    assert set(found.occupancy) >= {"vector of core 0", "vector of core 1"}


def test_a_collective_takes_its_latency_on_every_rank() -> None:
    def reduced(x):
        mine, total = (nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.private_hbm) for _ in range(2))
        nisa.dma_copy(dst=mine, src=x)
        group = ncc.ReplicaGroup([[0, 1]])
        ncc.all_reduce(srcs=[mine], dsts=[total], op=nl.add, replica_group=group)
        nisa.dma_copy(dst=mine, src=total)

    kernel, x = nki.jit(reduced), np.ones((1, 2048), np.float32)
    with nki_sim.record() as recording:
        ranks.run(kernel, ranks=2, arguments=[(x,)] * 2)
    for launch in recording.launches:
        path = predict(launch, "trn2").path
        assert [step.opcode for step in path] == ["dma_copy", "all_reduce", "dma_copy"]
        assert 9.5 < path[1].time_us < 10.0


def test_stated_dependencies_are_kept() -> None:
    def kernel(ordered: bool) -> None:
        left, right = filled(512), filled(512, engine=nisa.engine.gpsimd)
        first = nisa.activation(dst=left, op=nl.copy, data=left)
        second = nisa.tensor_copy(dst=right, src=right, engine=nisa.engine.gpsimd)
        if ordered:
            second.depends_on(first)

    assert nominal_us(recorded(kernel, True)) > nominal_us(recorded(kernel, False))


# -- what is shown ---------------------------------------------------------------------------------


def test_profile_writes_a_trace_and_a_timeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    files = [tmp_path / name for name in ("trace.json", "timeline.png", "timeline.pdf")]
    shapes = ["--shapes", "lhs_t=256x256", "rhs=256x1024", "--no-data"]
    shown = ["--trace", str(files[0]), "--timeline"]
    for timeline in files[1:]:
        assert main(["profile", EXAMPLE, *shapes, *shown, str(timeline)]) == 0
    assert "limited by" in capsys.readouterr().out
    events = json.loads(files[0].read_text())["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    names = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert {"tensor", "vector", "DMA", "DMA issue"} <= names
    assert sum(event["name"] == "nc_matmul" for event in slices) == 8
    assert all(event["dur"] >= 0 and "matmul.py:" in event["args"]["line"] for event in slices)
    for track in {(event["pid"], event["tid"]) for event in slices}:
        spans = sorted((e["ts"], e["dur"]) for e in slices if (e["pid"], e["tid"]) == track)
        for (begin, length), (following, _) in pairwise(spans):
            assert begin + length <= following + 1e-6
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert files[2].read_bytes().startswith(b"%PDF")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in files)


def test_profile_without_constants_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(hardware, "FOLDER", tmp_path)
    hardware.load.cache_clear()
    assert main(["profile", EXAMPLE, "--shapes", "lhs_t=128x128", "rhs=128x512"]) == 0
    out = capsys.readouterr().out
    assert "time: not modelled: trn2: no platform" in out and "HBM traffic" in out
    hardware.load.cache_clear()


def test_a_timeline_of_an_unknown_kind_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    target = ["profile", EXAMPLE, "--shapes", "lhs_t=128x128", "rhs=128x512"]
    main([*target, "--timeline", str(tmp_path / "x.doc")])
    assert "not supported" in capsys.readouterr().out and not list(tmp_path.iterdir())
