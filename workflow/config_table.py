"""Write the table of keys in config/README.md from the schema: python3 -m workflow.config_table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evaluation.files import write_atomically
from workflow.config import schema

README = Path(__file__).resolve().parents[1] / "config" / "README.md"
BEGIN = "<!-- from workflow/schemas/config.schema.yaml by: python3 -m workflow.config_table -->"
END = "<!-- end of the table -->"


def table() -> str:
    """Return a Markdown table with one row per key of the configuration."""
    head = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    return "\n".join([*head, *_rows(schema())])


def with_table(text: str) -> str:
    """Return a README with what lies between its two markers replaced by the present table."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> None:
    """Rewrite the table in config/README.md."""
    write_atomically(README, with_table(README.read_text(encoding="utf-8")))


def _rows(part: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, declared in part["properties"].items():
        if "properties" in declared:
            yield from _rows(declared, f"{prefix}{key}.")
        else:
            default = json.dumps(declared["default"], ensure_ascii=False)
            cells = (f"`{prefix}{key}`", _takes(declared), f"`{default}`", declared["description"])
            yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _takes(declared: Mapping[str, Any]) -> str:
    """Say which values a key takes, with the unit."""
    if "enum" in declared:
        return ", ".join(f"`{name}`" for name in declared["enum"])
    words = {"integer": "whole number", "null": "null", "string": "text", "array": "list"}
    words |= {"number": "number", "object": "group"}
    types = declared["type"] if isinstance(declared["type"], list) else [declared["type"]]
    least = f" ≥ {declared['minimum']}" if "minimum" in declared else ""
    unit = f" ({declared['x-unit']})" if "x-unit" in declared else ""
    return f"{' or '.join(words[name] for name in types)}{least}{unit}"


if __name__ == "__main__":
    main()
