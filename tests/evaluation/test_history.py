"""Records over time: filed once, compared like with like, flagged beyond noise alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.files import read_json, write_json
from evaluation.history import Change, Entry, changes, file_record, predecessors, read_history
from evaluation.history_table import history, markdown, regressions
from evaluation.records import RecordError
from report import history as plot
from workflow.scripts import history as script

from . import result_files

Record = dict[str, Any]
OLD = sorted((Path(__file__).parent / "records").glob("*.json"))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return result_files.make(tmp_path_factory.mktemp("results")).record()


@pytest.fixture(scope="module")
def device(simulated: Record) -> Record:
    return result_files.on_a_device(simulated)


def after(record: Record, change: Callable[[Record], Any]) -> list[Change]:
    """The changes that a later record shows, `change` having been made to it."""
    later = copy.deepcopy(record)
    change(later)
    return changes(Entry("a", record), Entry("b", later))


def told(found: list[Change]) -> list[tuple[str, str]]:
    return [(change.verdict, change.figure) for change in found]


def slowed(factor: float, prompt: int = 0) -> Callable[[Record], None]:
    def change(record: Record) -> None:
        latency = record["per_prompt_results"][prompt]["nki"]["latency"]
        latency["samples_ms"] = [factor * sample for sample in latency["samples_ms"]]

    return change


def kernel(record: Record) -> Record:
    found: Record = record["nki_kernels_implemented"][1]
    return found


def test_equal_records_show_no_change(simulated: Record, device: Record) -> None:
    assert after(simulated, lambda record: None) == after(device, lambda record: None) == []


def test_counted_figures_are_exact(simulated: Record) -> None:
    name = kernel(simulated)["kernel"]
    found = after(simulated, lambda r: kernel(r)["cost"]["instructions"].update(vector=4))
    assert told(found) == [("worse", f"{name} instructions.vector")]
    assert str(found[0]) == f"worse: {name} instructions.vector 3 → 4 (+33.3 %), exact"
    found = after(simulated, lambda r: kernel(r)["cost"].update(hbm_read_bytes=16))
    assert told(found) == [("better", f"{name} hbm_read_bytes")]
    found = after(simulated, lambda r: kernel(r)["launches"].update(decode_step=3))
    assert told(found) == [("worse", f"{name} launches per decode_step")]
    found = after(simulated, lambda r: r["summary"].update(prompts_passed=1, tokens_equal=17))
    assert told(found) == [("worse", "summary.prompts_passed"), ("better", "summary.tokens_equal")]


def test_modelled_times_are_exact_at_equal_assumptions(simulated: Record) -> None:
    def faster(record: Record) -> None:
        step = record["modelled"]["predictions"]["trn2"]["paths"]["fused"]["decode"][-1]
        step["total_us"]["nominal"] /= 2

    def on_other_assumptions(record: Record) -> None:
        faster(record)
        record["modelled"]["predictions"]["trn2"]["assumptions"][0]["value"] += 1

    found = after(simulated, faster)
    assert told(found) == [("better", "trn2 modelled fused decode step, bucket 640 in us")]
    assert after(simulated, on_other_assumptions) == []
    assert after(simulated, lambda record: record.pop("modelled")) == []


def test_other_shapes_paths_and_kernels_are_not_compared(simulated: Record) -> None:
    def reshaped(record: Record) -> None:
        kernel(record)["cost"].update(shapes={"x": [1, 16]}, macs=5)

    def by_another_path(record: Record) -> None:
        kernel(record)["launches"].update(kernel_path="rows", decode_step=9)

    assert after(simulated, reshaped) == after(simulated, by_another_path) == []
    assert after(simulated, lambda r: r["nki_kernels_implemented"].pop(1)) == []


def test_times_of_a_simulation_are_not_compared(simulated: Record) -> None:
    def slower(record: Record) -> None:
        record["per_prompt_results"][0]["nki"]["host_time"]["samples_ms"] = [1e6] * 3

    assert after(simulated, slower) == []


def test_latencies_change_beyond_their_noise_alone(device: Record) -> None:
    found = after(device, slowed(1.05))
    assert told(found) == [("worse", "prompt 0 mean latency in ms")]
    assert found[0].after / found[0].before == pytest.approx(1.05)
    assert "interval of the ratio 1.0" in found[0].noise
    assert told(after(device, slowed(0.9, 1))) == [("better", "prompt 1 mean latency in ms")]
    assert after(device, slowed(1.001)) == []


def test_without_noise_known_or_on_another_machine_nothing_is_judged(device: Record) -> None:
    def few(record: Record) -> None:
        record["per_prompt_results"][0]["nki"]["latency"]["samples_ms"] = [1e6] * 4

    def elsewhere(record: Record) -> None:
        slowed(2.0)(record)
        record["provenance"]["machine"]["cpu"] = "another"

    assert after(device, few) == after(device, elsewhere) == []


def test_chance_alone_is_seldom_flagged(device: Record) -> None:
    """Runs drawn from one distribution differ; over both prompts 5 % of pairs may be flagged."""
    rng, flagged = np.random.RandomState(5), 0
    for _ in range(60):
        pair = [copy.deepcopy(device) for _ in range(2)]
        for record in pair:
            for prompt in record["per_prompt_results"]:
                prompt["nki"]["latency"]["samples_ms"] = rng.normal(100, 3, 20).tolist()
        flagged += bool(changes(Entry("a", pair[0]), Entry("b", pair[1])))
    assert flagged <= 9, "0.05 of 60 is 3; small samples make intervals a little narrow"


def test_like_is_compared_with_like(simulated: Record, device: Record) -> None:
    other = copy.deepcopy(simulated)
    other["test_configuration"]["max_new_tokens"] = 16
    names = {"a": simulated, "b": device, "c": simulated, "d": other, "e": device, "f": other}
    before = predecessors([Entry(name, record) for name, record in names.items()])
    assert [entry and entry.name for entry in before] == [None, None, "a", None, "b", "d"]


def test_a_record_is_filed_once_as_it_is(simulated: Record, tmp_path: Path) -> None:
    source, folder = tmp_path / "record.json", tmp_path / "history"
    write_json(source, simulated)
    filed = file_record(source, folder)
    assert filed.name.startswith("20260502T100000Z_") and filed.read_bytes() == source.read_bytes()
    assert file_record(source, folder) == filed and len(list(folder.iterdir())) == 1
    filed.write_text("damaged")
    file_record(source, folder)
    assert filed.read_bytes() == source.read_bytes()
    source.write_text("{}")
    with pytest.raises(RecordError):
        file_record(source, folder)
    assert len(list(folder.iterdir())) == 1


def test_old_records_take_part(simulated: Record, tmp_path: Path) -> None:
    write_json(tmp_path / "now.json", simulated)
    entries = read_history([tmp_path / "now.json", *OLD, OLD[0]])
    assert len(entries) == len(OLD) + 1, "each once"
    times = [entry.record["timestamp"] for entry in entries]
    assert times == sorted(times)
    content = history(entries)
    text = markdown(content)
    assert text.count("\n| 2026-05-02T10:00:00Z |") == len(entries)
    assert all(len(row.split(" | ")) == 12 for row in text.splitlines() if row.startswith("|"))


def test_the_program_writes_table_plot_and_data(
    device: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records, first, second = tmp_path / "records", copy.deepcopy(device), copy.deepcopy(device)
    write_json(tmp_path / "record.json", first)
    flags = {"record": "record.json", "output": "h.json", "table": "h.md", "pdf": "h.pdf"}
    words = ["--records", str(records), "--png", str(tmp_path / "h.png")]
    words += [word for name, file in flags.items() for word in (f"--{name}", str(tmp_path / file))]
    script.main(words)
    assert capsys.readouterr().out == "the latest record is in nothing worse\n"
    second["timestamp"] = "2026-05-03T10:00:00Z"
    kernel(second)["cost"]["macs"] = 7
    write_json(tmp_path / "record.json", second)
    script.main(words)
    worse = f"worse: {kernel(second)['kernel']} macs 0 → 7, exact"
    assert capsys.readouterr().out == f"{worse}\n"
    content = read_json(tmp_path / "h.json")
    assert [record["previous"] for record in content["records"]] == [None, 0]
    assert regressions(content) == [worse]
    text = (tmp_path / "h.md").read_text()
    assert "the first of its setting" in text and "| 1 worse |" in text and f"- {worse}" in text
    assert (tmp_path / "h.pdf").read_bytes().startswith(b"%PDF-")
    before = (tmp_path / "h.png").read_bytes()
    assert before.startswith(b"\x89PNG")
    script.main(words)
    assert (tmp_path / "h.png").read_bytes() == before and len(list(records.iterdir())) == 2


def test_a_record_that_is_not_valid_stops_the_program(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("{}")
    names = ("output", "table", "pdf", "png")
    words = ["--record", str(tmp_path / "record.json"), "--records", str(tmp_path / "records")]
    words += [word for name in names for word in (f"--{name}", str(tmp_path / name))]
    with pytest.raises(SystemExit, match=r"history: .*record\.json: \d+ problem"):
        script.main(words)
    assert not (tmp_path / "output").exists()


def test_panels_show_what_there_is(simulated: Record, device: Record) -> None:
    content = history([Entry("a", simulated), Entry("b", device)])
    titles = [axes.get_title(loc="left") for axes in plot.draw(content).axes]
    assert titles == list(plot.PANELS.values())
    alone = history([Entry("a", simulated)])
    titles = [axes.get_title(loc="left") for axes in plot.draw(alone).axes]
    assert titles == [title for title in plot.PANELS.values() if "score" not in title]
    with pytest.raises(ValueError, match="without records"):
        plot.draw(history([]))
