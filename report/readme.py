"""What README says and shows of a record, and the files that are generated for it.

`extract` takes from a record what they say; it is committed as docs/results.json, so that a test
can hold README, badges and page against it without a run. Pictures carry the record's hash.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evaluation.files import read_json, sha256_file, to_json
from report import pictures
from report.badges import BADGES, svg
from report.fields import Fields
from report.modelled import modelled_facts
from report.readme_blocks import figure_captions, figures_page, with_blocks

_TOGETHER = ("baseline_total_score", "nki_total_score", "improvement_percent")


def extract(record_path: Path) -> dict[str, Any]:
    """Return what README says of the record at a path, with the record's hash."""
    record = Fields(read_json(record_path))
    prompts, summary = record["per_prompt_results"], record["summary"]
    entries = [entry for p in prompts for entry in p["nki"]["accuracy"]["top_k"]]
    path = record["test_configuration"].get("kernel_path")
    launches = [k["launches"] for k in record["nki_kernels_implemented"]]
    return {
        "record_sha256": sha256_file(record_path),
        "commit": record["provenance"]["commit"],
        "dirty": record["provenance"]["dirty"],
        "timestamp": record["timestamp"],
        "backend": record["backend"],
        "platform_target": record["platform_target"],
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
        **{name: summary[name] for name in _TOGETHER if name in summary},
        **_modelled(record),
    }


def _modelled(record: Fields) -> dict[str, Any]:
    """Return the modelled values by platform; nothing of a record without them."""
    found = modelled_facts(record)["modelled"]
    if found is None:
        return {}
    first = next(iter(found["platforms"].values()))
    return {
        "modelled": {
            "model": first["prediction"]["model"],
            "dtype": first["prediction"]["dtype"],
            "ranks": found["ranks"],
            "cores_per_rank": found["cores"],
            "decode_bucket_tokens": first["fused"]["bucket"],
            "prefill_bucket_tokens": first["prefill"]["bucket"],
            "platforms": {
                platform: {
                    "fused_us": values["fused"]["total_us"],
                    "layered_us": values["layered"]["total_us"],
                    "device_bound_ratio": values["device_ratio"],
                    "prefill_us": values["prefill"]["total_us"],
                    "total_score": values["total_score"],
                }
                for platform, values in found["platforms"].items()
            },
        }
    }


def documents(record: Path, pdf: Path, figures: Path, readme: str) -> dict[str, str | bytes]:
    """Return the content of every file that is generated, by path from the repository's top.

    `figures` is the folder of the report's figures, `readme` README as it is. What everything else
    is held against, docs/results.json, is the last. ReportError where something does not fit.
    """
    found = extract(record)
    sha256 = found["record_sha256"]
    drawn = pictures.figures(figures, figure_captions(found), sha256)
    return {
        "docs/technical_report.png": pictures.pages(pdf, sha256),
        **{f"docs/figures/{name}.png": png for name, png in drawn.items()},
        **{f"docs/badges/{name}.svg": svg(badge(found)) for name, badge in BADGES.items()},
        "docs/figures.md": figures_page(found),
        "README.md": with_blocks(readme, found),
        "docs/results.json": to_json(found),
    }
