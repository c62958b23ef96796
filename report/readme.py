"""README's block of results and its picture of the report, from a record.

`extract` takes from a record what the block says; it is committed as docs/results.json, so that a
test can hold the block against it without a run. The picture carries the record's hash.
"""

from __future__ import annotations

import subprocess
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np

from evaluation.files import read_json, sha256_file, write_atomically
from report.facts import BACKENDS
from report.fields import Fields, ReportError

BEGIN = "<!-- results: from docs/results.json, by: snakemake readme -->"
END = "<!-- end of the results -->"
_PAGES, _PAGE_DPI, _GAP_PIXELS = 3, 62, 12


def extract(record_path: Path) -> dict[str, Any]:
    """Return what README says of the record at a path, with the record's hash."""
    record = Fields(read_json(record_path))
    prompts, summary = record["per_prompt_results"], record["summary"]
    entries = [entry for p in prompts for entry in p["nki"]["accuracy"]["top_k"]]
    path = record["test_configuration"].get("kernel_path")
    launches = [k["launches"] for k in record["nki_kernels_implemented"]]
    found = {
        "record_sha256": sha256_file(record_path),
        "commit": record["provenance"]["commit"],
        "dirty": record["provenance"]["dirty"],
        "timestamp": record["timestamp"],
        "backend": record["backend"],
        "hardware": record["hardware"],
        "model": record["model"],
        "max_new_tokens": record["test_configuration"]["max_new_tokens"],
        "kernel_path": path,
        "kernels": len(record["nki_kernels_implemented"]),
        "prompts_passed": summary["prompts_passed"],
        "prompts_total": summary["prompts_total"],
        "tokens_equal": summary["tokens_equal"],
        "tokens_checked": summary["tokens_checked"],
        "worst_fraction_of_tolerance": max(entry["fraction_of_tolerance"] for entry in entries),
        "launches_per_decode_step": sum(
            one["decode_step"] for one in launches if one.get("kernel_path") == path
        ),
    }
    for name in ("baseline_total_score", "nki_total_score", "improvement_percent"):
        if name in summary:
            found[name] = summary[name]
    return found


def block(found: dict[str, Any]) -> str:
    """Return the block in Markdown: what was run, and a table of what came of it."""
    new_tokens = found["max_new_tokens"]
    commit = f"commit `{found['commit'][:10]}`" if found["commit"] else "no commit"
    changed = " with uncommitted changes" if found["dirty"] else ""
    rows = {
        "prompts within the accuracy rule": (
            f"{found['prompts_passed']} of {found['prompts_total']}"
        ),
        "tokens chosen as the baseline chooses": (
            f"{found['tokens_equal']} of {found['tokens_checked']}"
        ),
        "worst logit error, in parts of its tolerance": (
            f"{found['worst_fraction_of_tolerance']:.2g}"
        ),
        "kernels, each validated against its oracle": str(found["kernels"]),
        f"launches per decode step (path {found['kernel_path']})": str(
            found["launches_per_decode_step"]
        ),
        "score": _score(found),
    }
    length = f"{new_tokens} new tokens" if new_tokens else "the whole window"
    return "\n".join(
        [
            f"{found['model']}, {length} per prompt, on "
            f"{BACKENDS[found['backend']]}; {found['timestamp']}, {commit}{changed}, record "
            f"`{found['record_sha256'][:12]}`:",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows.items()),
        ]
    )


def with_block(text: str, found: dict[str, Any]) -> str:
    """Return a README with what lies between its two markers replaced by the block."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ReportError(f"README.md: no place for the results between {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{block(found)}\n{END}{after}"


def picture(pdf: Path, png: Path, record_sha256: str) -> None:
    """Lay the first pages of the report side by side; needs pdftoppm of poppler-utils."""
    with tempfile.TemporaryDirectory(prefix="pages-") as folder:
        command = ["pdftoppm", "-png", "-r", str(_PAGE_DPI), "-l", str(_PAGES), str(pdf)]
        try:
            subprocess.run([*command, f"{folder}/page"], check=True, capture_output=True)
        except FileNotFoundError:
            raise ReportError("pdftoppm is not installed; it is in poppler-utils") from None
        except subprocess.CalledProcessError as error:
            raise ReportError(f"{pdf}: no pages: {error.stderr.decode().strip()}") from None
        pages = [matplotlib.image.imread(page) for page in sorted(Path(folder).glob("*.png"))]
    gap = np.full((pages[0].shape[0], _GAP_PIXELS, 3), 0.85, np.float32)
    parts = [part for page in pages for part in (gap, page[..., :3])]
    stream, metadata = BytesIO(), {"RecordSHA256": record_sha256}
    row = np.concatenate([*parts[1:]], axis=1)
    matplotlib.image.imsave(stream, row, format="png", metadata=metadata)
    write_atomically(png, stream.getvalue())


def _score(found: dict[str, Any]) -> str:
    if "nki_total_score" not in found:
        return "none: it is made of device latencies, and no Trainium took part"
    scores = f"{found['nki_total_score']:.2f}, baseline {found['baseline_total_score']:.2f}"
    return f"{scores} ({found['improvement_percent']:+.1f} %), on {found['hardware']}"
