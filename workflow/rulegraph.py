"""The graph of the rules as a document: docs/workflow.md, from what Snakemake itself says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

TARGETS = (
    "all", "results/submission_verified.json", "results/leaderboard/qwen_with_nki.py",
    "results/validation/latency.json", "tune", "device_tests", "history", "readme", "doctor",
)  # fmt: skip
"""Targets whose rules, together, are all of the workflow's."""

_NODE = re.compile(r"^\s*(id\d+)\[(\w+)")
_EDGE = re.compile(r"^\s*(id\d+) --> (id\d+)")
_TEXT = """\
# The workflow

Each box is a rule, each arrow goes from a rule to one that reads its result. `all` is what `./run`
builds. Drawn from the rules by `snakemake docs/workflow.md`, for the default configuration: with
`model.repo_id`, `download_model` stands in the place of `make_tiny_model`.

```mermaid
flowchart LR
{graph}
```
"""


class GraphError(RuntimeError):
    """Snakemake drew nothing that can be read."""


def document(root: Path) -> str:
    """Return the document for the workflow in the folder `root`; nothing is run or locked there."""
    command = [sys.executable, "-m", "snakemake", *TARGETS, "--rulegraph", "mermaid-js"]
    drawn = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if drawn.returncode:
        raise GraphError(f"{' '.join(command[1:])} failed:\n{drawn.stderr}")
    graph = boxes_and_arrows(drawn.stdout)
    if not graph:
        raise GraphError(f"{' '.join(command[1:])}: no rule in what it printed")
    return _TEXT.format(graph="\n".join(f"    {line}" for line in graph))


def boxes_and_arrows(mermaid: str) -> list[str]:
    """Return the arrows by names of rules, after the rules that have none.

    They are sorted: Snakemake's numbers and colours vary, and so does its order.
    """
    lines = mermaid.splitlines()
    names = {match[1]: match[2] for line in lines if (match := _NODE.match(line))}
    edges = {(names[m[1]], names[m[2]]) for line in lines if (m := _EDGE.match(line))}
    alone = set(names.values()) - {name for edge in edges for name in edge}
    return [*sorted(alone), *(f"{source} --> {target}" for source, target in sorted(edges))]
