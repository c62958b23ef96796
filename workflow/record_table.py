"""Write the tables of docs/record.md from the record's schema: python3 -m workflow.record_table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evaluation.files import write_atomically
from evaluation.migration import SCHEMA_VERSION, STEPS
from evaluation.records import schema

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "record.md"
BEGIN = (
    "<!-- from workflow/schemas/benchmark_results.schema.json by: "
    "python3 -m workflow.record_table -->"
)
END = "<!-- end of the tables -->"
_REFERENCE = "#/$defs/"


def tables() -> str:
    """Return the schema in Markdown: the record first, then each part that occurs several times."""
    parts = [_section("the record", schema())]
    parts += [_section(name, part) for name, part in schema()["$defs"].items()]
    versions = " → ".join((*STEPS, SCHEMA_VERSION))
    return "\n\n".join([f"Versions: {versions}. This is {SCHEMA_VERSION}.", *parts])


def with_tables(text: str) -> str:
    """Return a document with what lies between its two markers replaced by the present tables."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def main() -> None:
    """Rewrite the tables in docs/record.md."""
    write_atomically(DOCUMENT, with_tables(DOCUMENT.read_text(encoding="utf-8")))


def _section(name: str, part: Mapping[str, Any]) -> str:
    lines = [f"### {name}", "", part["description"]]
    if "properties" in part:
        head = ["| key | takes | meaning |", "|---|---|---|"]
        lines += ["", *head, *_rows(part)]
    else:
        lines[-1] = f"{lines[-1]} Takes: {_takes(part)}."
    return "\n".join(lines)


def _rows(part: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    required = part.get("required", [])
    for key, declared in part["properties"].items():
        name = f"{prefix}{key}"
        mark = "" if key in required else " (optional)"
        cells = (f"`{name}`{mark}", _takes(declared), _meaning(declared))
        yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
        if "properties" in declared:
            yield from _rows(declared, f"{name}.")
        elif "properties" in declared.get("items", {}):
            yield from _rows(declared["items"], f"{name}[*].")
        elif "properties" in (free := _free(declared)):
            yield from _rows(free, f"{name}.*.")


def _free(declared: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what stands under keys that the schema does not name; nothing if there are none."""
    free = declared.get("additionalProperties")
    return free if isinstance(free, Mapping) else {}


def _meaning(declared: Mapping[str, Any]) -> str:
    if "description" in declared:
        return str(declared["description"])
    return str(schema()["$defs"][declared["$ref"].removeprefix(_REFERENCE)]["description"])


def _takes(declared: Mapping[str, Any]) -> str:
    """Say which values a key takes."""
    if "$ref" in declared:
        name = declared["$ref"].removeprefix(_REFERENCE)
        return f"[{name}](#{name})"
    if "const" in declared:
        return f"`{declared['const']}`"
    if "enum" in declared:
        return ", ".join(f"`{value}`" for value in declared["enum"])
    words = {
        "integer": "whole number",
        "string": "text",
        "null": "null",
        "boolean": "true or false",
    }
    words |= {"number": "number", "object": "object", "array": "list"}
    types = declared["type"] if isinstance(declared["type"], list) else [declared["type"]]
    of = _of(declared)
    return " or ".join(words[name] for name in types) + of + _bounds(declared)


def _of(declared: Mapping[str, Any]) -> str:
    """Say what a list holds, or an object whose keys are free."""
    inside = declared.get("items") or _free(declared)
    if not inside or "properties" in inside:
        return ""
    return f" of {_takes(inside)}"


def _bounds(declared: Mapping[str, Any]) -> str:
    signs = {
        "exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤",
    }  # fmt: skip
    bounds = [f"{sign} {declared[name]}" for name, sign in signs.items() if name in declared]
    if "pattern" in declared:
        bounds.append(f"matching `{declared['pattern']}`")
    return f" {', '.join(bounds)}" if bounds else ""


if __name__ == "__main__":
    main()
