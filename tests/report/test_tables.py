"""Tables hold what the record holds, digit by digit, and text that cannot harm a page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas
import pytest
from sample_record import device_record, simulator_record

from evaluation.files import sha256_file, write_json
from report.captions import captions
from report.fields import Fields
from report.table_files import ABSENT, frame, write_table
from report.tables import DEVICES, SIMULATORS, TABLES, tables_of


def rows(name: str, record: dict[str, Any]) -> list[dict[str, Any]]:
    return TABLES[name](Fields(record))


def files(name: str, record: dict[str, Any], folder: Path) -> tuple[pandas.DataFrame, str]:
    """Write a table; return what its CSV says, as text, and its page."""
    write_json(folder / "record.json", record)
    csv, html = folder / f"{name}.csv", folder / f"{name}.html"
    write_table(name, folder / "record.json", csv, html)
    return pandas.read_csv(csv, dtype=str, keep_default_na=False), html.read_text()


def test_every_table_has_a_caption_in_their_order() -> None:
    assert list(captions("tables")) == list(TABLES)


def test_every_table_is_one_of_some_backend() -> None:
    assert {*tables_of("simulator"), *tables_of("neuron")} == set(TABLES)
    assert {tuple(tables_of(one)) for one in SIMULATORS} == {tuple(tables_of("simulator"))}
    assert DEVICES == ("neuron",)


def test_no_table_of_a_run_is_empty_and_no_column_has_two_names(record: dict[str, Any]) -> None:
    compared = bool(rows("device_against_modelled", record))
    names = [name for name in tables_of(record["backend"]) if record.get(name, True)]
    for name in (n for n in names if n != "device_against_modelled" or compared):
        found = frame(name, Fields(record))
        assert len(found) and "absent" not in found.columns, name
        assert all(re.fullmatch(r"[a-z][a-z0-9_]*", column) for column in found.columns), name


def test_ranges_are_in_order(record: dict[str, Any]) -> None:
    for name in tables_of(record["backend"]):
        found = frame(name, Fields(record))
        for column in (c for c in found.columns if "_nominal" in c):
            low, high = (found[column.replace("nominal", end)] for end in ("low", "high"))
            assert (low <= found[column]).all() and (found[column] <= high).all(), (name, column)


def test_measured_and_modelled_times_share_no_column() -> None:
    columns: dict[str, set[str]] = {}
    for record in (Fields(simulator_record()), Fields(device_record())):
        for name in tables_of(record["backend"]):
            basis = captions("tables")[name].basis
            columns.setdefault(basis, set()).update(frame(name, record).columns)
    measured = {c for c in columns["measured"] if c.endswith(("_ms", "_us", "_s")) or "score" in c}
    assert measured and not measured & columns["modelled"]
    assert {"published", "modelled_nominal"} <= columns["modelled"], "apart, in one table"


def test_a_prompt_s_row_is_its_entry() -> None:
    record = simulator_record((1,))
    for row, prompt in zip(rows("prompts", record), record["per_prompt_results"], strict=True):
        accuracy = prompt["nki"]["accuracy"]
        assert row["prompt"] == prompt["name"] and row["passed"] == accuracy["passed"]
        assert row["checked_tokens"] == accuracy["tokens_checked"]
        worst = max(entry["fraction_of_tolerance"] for entry in accuracy["top_k"])
        assert row["worst_fraction_of_tolerance"] == worst
    assert [row["passed"] for row in rows("prompts", record)].count(False) == 1


def test_runs_are_those_of_the_record() -> None:
    record = simulator_record()
    found = rows("paths", record)
    checks = [(one["kernel_path"], one["dtype"], 1) for one in record["path_checks"]]
    assert [(r["kernel_path"], r["dtype"], r["prompts"]) for r in found[1:]] == checks
    assert found[0]["checked_tokens"] == record["summary"]["tokens_checked"]
    ids = {row["prompt_id"] for row in rows("coverage", record)}
    assert ids >= {prompt["prompt_id"] for prompt in record["per_prompt_results"]}
    assert len(rows("coverage", record)) == 2 * sum(row["prompts"] for row in found)


def test_kernels_are_all_there(record: dict[str, Any]) -> None:
    kernels = {kernel["kernel"]: kernel for kernel in record["nki_kernels_implemented"]}
    for name in ("kernel_errors", "launches", "kernel_work"):
        assert {row["kernel"] for row in rows(name, record)} == kernels.keys()
    for row in rows("kernel_errors", record):
        entry = kernels[row["kernel"]]["validation"][row["dtype"]]
        assert row["largest_error"] == entry["max_abs_error"]


def test_a_device_s_times_carry_their_intervals() -> None:
    record = device_record()
    row, prompt = rows("device_times", record)[1], record["per_prompt_results"][0]
    side = record["statistics"]["per_prompt"][0]["nki"]
    assert (row["side"], row["latency_p99_ms"]) == ("nki", prompt["nki"]["latency_ms"])
    assert [row["latency_p99_from_ms"], row["latency_p99_to_ms"]] == side["latency_interval_ms"]
    mean = rows("device_comparison", record)[-1]
    assert mean["speedup"] == record["statistics"]["comparison"]["geometric_mean_speedup"]


def test_parts_of_a_run_and_what_was_modelled_of_it() -> None:
    record = device_record(3.0, "layered")
    phases = rows("device_phases", record)
    assert [(row["prompt_id"], row["side"]) for row in phases[:3]] == [
        (0, "baseline"), (0, "nki"), (1, "baseline"),
    ]  # fmt: skip
    assert all(0 < row["host_share"] < 1 for row in phases)
    median = record["per_prompt_results"][0]["nki"]["host_time"]["p50_ms"]
    against = rows("device_against_modelled", record)
    assert len(against) == 5 and against[0]["measured_median_ms"] == median
    assert rows("device_against_modelled", device_record()) == []


def test_few_runs_have_no_intervals_and_no_comparison(tmp_path: Path) -> None:
    record = device_record()
    del record["statistics"]
    assert "score_from" not in rows("device_times", record)[0]
    _, html = files("device_comparison", record, tmp_path)
    assert ABSENT in html


def test_without_modelled_times_their_tables_say_so(tmp_path: Path) -> None:
    record = simulator_record()
    del record["modelled"]
    for name, caption in captions("tables").items():
        if caption.basis == "modelled":
            csv, html = files(name, record, tmp_path)
            assert list(csv["absent"]) == [ABSENT] and f">{ABSENT}</td>" in html


def test_csv_has_every_digit_and_whole_numbers_stay_whole(tmp_path: Path) -> None:
    record = simulator_record()
    csv, _ = files("prompts", record, tmp_path)
    wanted = [row["largest_error_logits"] for row in rows("prompts", record)]
    assert [float(value) for value in csv["largest_error_logits"]] == wanted
    assert [int(value) for value in csv["checked_tokens"]]
    device = device_record()
    last = files("device_comparison", device, tmp_path)[0].iloc[-1]
    assert last["prompt_id"] == "" and last["prompt"] == "geometric mean"
    assert files("device_comparison", device, tmp_path)[0]["prompt_id"][0] == "0"


def test_provenance_names_values_as_explain_does(tmp_path: Path) -> None:
    record = simulator_record()
    csv, html = files("provenance", record, tmp_path)
    found = dict(zip(csv["key"], csv["value"], strict=True))
    assert found["provenance.commit"] == record["provenance"]["commit"]
    assert "test_configuration.max_new_tokens" in found and found["backend"] == "simulator"
    assert sha256_file(tmp_path / "record.json") in html


def test_foreign_text_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    record = simulator_record()
    name = '<script>alert(1)</script> & "x", {0} ' + "long " * 60
    record["per_prompt_results"][0]["name"] = name
    csv, html = files("prompts", record, tmp_path)
    assert csv["prompt"][0] == name
    assert "<script" not in html and "&lt;script&gt;alert(1)" in html and "{0}" in html
    assert html.count("long") == 60, "nothing is cut"


def test_a_page_needs_no_other_file(record: dict[str, Any], tmp_path: Path) -> None:
    for name in tables_of(record["backend"]):
        _, html = files(name, record, tmp_path)
        assert not re.search(r"<(script|link|img|iframe)|@import|url\(", html), name
        assert not re.search(r">(None|nan|NaN)<", html), name


def test_a_table_of_another_backend_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no table 'drift' on neuron; known: prompts"):
        files("drift", device_record(), tmp_path)
