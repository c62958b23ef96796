"""The documentation of the record is the schema's."""

from __future__ import annotations

from evaluation.records import schema
from workflow.record_table import DOCUMENT, tables, with_tables


def test_the_documented_tables_are_the_schema_s() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert with_tables(text) == text, "run: python3 -m workflow.record_table"


def test_every_key_and_part_is_in_them() -> None:
    text = tables()
    for key in schema()["properties"]:
        assert f"| `{key}`" in text
    for name, part in schema()["$defs"].items():
        assert f"### {name}\n\n{part['description']}" in text
    assert "| `latency_interval_ms` | [interval](#interval) | Interval of latency_ms" in text
    assert "| `provenance.machine.cores` | whole number ≥ 1 | Usable cores. |" in text
