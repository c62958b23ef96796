"""Titles and captions of the figures and tables, from captions.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

_FILE = Path(__file__).with_name("captions.yaml")


@dataclass(frozen=True)
class Caption:
    """What stands with a figure or a table: its title, its caption, and what its values rest on."""

    title: str
    caption: str
    basis: str


@cache
def _written() -> dict[str, dict[str, dict[str, str]]]:
    """Return what the file holds, by kind and name."""
    found: dict[str, dict[str, dict[str, str]]] = yaml.safe_load(_FILE.read_bytes())
    return found


def captions(kind: Literal["figures", "tables"], **values: str) -> dict[str, Caption]:
    """Return the captions of a kind by name, in the order of the report.

    `values` fill the braces; without them, they stay. KeyError for one that is missing.
    """
    return {
        name: Caption(
            entry["title"],
            entry["caption"].format_map(values) if values else entry["caption"],
            entry["basis"],
        )
        for name, entry in _written()[kind].items()
    }
