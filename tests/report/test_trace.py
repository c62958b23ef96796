"""Numbers keep the keys that they come from, through arithmetic, to the place where they stand."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sample_record import simulator_record

from evaluation.files import read_json, sha256_file, write_json
from evaluation.problems import lookup
from report.captions import captions
from report.fields import Fields
from report.numbers import separate
from report.render import render, render_file
from report.tex import fixed, num, plain, plain_signed, qty
from report.trace import Whole, constant, count, how, keys, real, traced

A, B, N = traced(6.0, "a"), traced(1.5, "b[0].c"), traced(4, "n")
SUM = sum(traced(float(i), f"x[{i}]") for i in range(6))


@pytest.mark.parametrize(
    ("value", "plain_value", "computed", "used"),
    [
        (A, 6.0, "a", ["a"]),
        (A / B, 4.0, "a / b[0].c", ["a", "b[0].c"]),
        (100 * A / N, 150.0, "(100 * a) / n", ["a", "n"]),
        (2 - N, -2, "2 - n", ["n"]),
        (1e3 / (A + B), 1e3 / 7.5, "1000 / (a + b[0].c)", ["a", "b[0].c"]),
        (N * N, 16, "n * n", ["n"]),
        (N + 1.5, 5.5, "n + 1.5", ["n"]),
        (0 + N * 1, 4, "n", ["n"]),
        (max(A, B), 6.0, "a", ["a"]),
        (SUM, 15.0, "x[0] + … + x[5] (6 terms)", [f"x[{i}]" for i in range(6)]),
        (real(N), 4.0, "n", ["n"]),
        (constant(1.05, "LIMIT of x.py"), 1.05, "LIMIT of x.py", []),
        (float(A), 6.0, "", []),
    ],
)
def test_arithmetic_keeps_the_keys(
    value: Any, plain_value: float, computed: str, used: list[str]
) -> None:
    assert value == plain_value and type(plain_value) in type(value).__mro__
    assert how(value) == computed
    assert keys(value) == used


def test_members_of_a_record_are_traced() -> None:
    record = Fields({"a": [{"b": 2, "c": True, "d": None}], "e": {"vector": 3}})
    entry = record["a"][0]
    assert type(entry["b"]) is Whole and how(entry["b"]) == "a[0].b"
    assert entry["c"] is True and entry["d"] is None
    assert how(count(record["a"])) == "number of a" and count(record["a"]) == 1
    assert keys(count([one for one in record["a"] if one["c"]])) == ["a[0]"]
    assert keys(record["e"].get("tensor", 0)) == ["e"] and record["e"].get("tensor") is None
    assert how(record["e"].get("vector", 0)) == "e.vector"
    assert how(count(["x"])) == ""


def test_notes_leave_the_source_as_it_was() -> None:
    for printed in (num(A / B), fixed(B, 1), qty(N, r"\byte"), plain(A), plain_signed(A)):
        source, numbers = separate(printed)
        assert "\x02" not in source and len(numbers) == 1
        assert numbers[0].printed in source
    same = separate(num(1.5))[0]
    assert separate(num(B))[0] == same == r"\num{1.50}"


def test_places_are_named_as_in_the_pdf() -> None:
    parts = (
        r"\begin{document}\begin{abstract}", f"takes {plain(A)} in all", r"\end{abstract}",
        r"\section{Results}", f"Now {plain(B)} of them", r"\kernelhead{Time}", f"is {plain(N)}.",
        r"\begin{table*}", f"Step one & {plain(A)} \\\\", r"\end{table*}",
        r"\begin{table}", f"Two & {plain(A)} \\\\", r"\end{table}",
    )  # fmt: skip
    _source, numbers = separate("\n".join(parts))
    assert [n.place for n in numbers] == [
        "Abstract", "Results", "Results, Time", "Table 1", "Table 2",
    ]  # fmt: skip
    assert [n.line for n in numbers] == [2, 5, 7, 9, 12]
    assert "takes 6.00 in all" in numbers[0].context
    assert numbers[3].context == "Step one"
    assert all(one.line < other.line for one, other in pairwise(numbers))


def test_every_number_of_the_report_leads_to_the_record(record: dict[str, Any]) -> None:
    """Nothing is printed that the record does not hold, but for limits that the code names."""
    source, numbers = render(record, dict.fromkeys(captions("figures"), "x.pdf"))
    named = {number.how for number in numbers if not number.keys}
    assert named <= {"REREAD_LIMIT of report/facts.py"}
    missing = {key for number in numbers for key in number.keys if lookup(record, key) is None}
    assert missing == set()
    assert len(numbers) > 500 and "\x02" not in source
    body = source.partition(r"\begin{document}")[2]
    assert len(re.findall(r"\\(?:num|qty)\b", body)) <= len(numbers)


def test_the_list_is_of_the_record(tmp_path: Path) -> None:
    write_json(tmp_path / "record.json", simulator_record())
    tex, listed = tmp_path / "report" / "x.tex", tmp_path / "report" / "n.json"
    render_file(tmp_path / "record.json", tmp_path / "report" / "figures", tex, listed)
    content = read_json(listed)
    assert content["record_sha256"] == sha256_file(tmp_path / "record.json")
    lines = tex.read_text().splitlines()
    assert all(one["printed"] in lines[one["line"] - 1] for one in content["numbers"])
