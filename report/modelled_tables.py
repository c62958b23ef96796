"""Tables of modelled times: of the whole model, of each kernel, and how far off they are.

All are without rows for a record that has no modelled times.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from report.fields import Fields
from report.modelled import PATHS, PLATFORMS, final_step, token_parts

Row = dict[str, Any]
"""A row of a table: {column: value}; a quantity's column ends in its unit."""


def modelled_steps(record: Fields) -> list[Row]:
    """Return the modelled time of a prefill and of a decode step in each bucket."""
    rows = []
    for platform, prediction in _predictions(record):
        steps: list[tuple[str, str | None, Fields]] = []
        steps += [("prefill", None, step) for step in prediction["prefill"]]
        for path in PATHS:
            steps += [("decode step", path, s) for s in prediction["paths"][path]["decode"]]
        rows += [
            {
                "platform": platform,
                "phase": phase,
                "kernel_path": path,
                "bucket_tokens": step["bucket"],
                **_range("total", "us", step["total_us"]),
                **_range("device", "us", step["device_us"]),
            }
            for phase, path, step in steps
        ]
    return rows


def modelled_prompts(record: Fields) -> list[Row]:
    """Return modelled latency, throughput and score of the challenge's prompts."""
    return [
        {
            "platform": platform,
            "kernel_path": path,
            "prompt_id": prompt["prompt_id"],
            "input_tokens": prompt["input_tokens"],
            "output_tokens": prompt["output_tokens"],
            **_range("latency", "ms", prompt["latency_ms"]),
            **_range("throughput", "tok_s", prompt["throughput_tok_s"]),
            **_range("score", "", prompt["score"]),
        }
        for platform, prediction in _predictions(record)
        for path in PATHS
        for prompt in prediction["paths"][path]["prompts"]
    ]


def token_time(record: Fields) -> list[Row]:
    """Return what a decode step at the largest bucket is spent on, in nominal time."""
    return [
        {"platform": platform, "kernel_path": path, "part": part, "nominal_us": time_us}
        for platform, _ in _predictions(record)
        for path in PATHS
        for part, time_us in token_parts(final_step(record, platform, path)).items()
    ]


def tuning_ladder(record: Fields) -> list[Row]:
    """Return each step of tuning with its time and what it gained."""
    kernels = record["modelled"]["ladders"]["kernels"] if "modelled" in record else {}
    return [
        {
            "kernel": kernel,
            "workload": found["workload"],
            "step": step["step"],
            "idea": step["idea"],
            "platform": platform,
            **_range("time", "us", step["time_us"][platform]),
            "gain_us": step["gain_us"][platform],
        }
        for kernel, found in kernels.items()
        for step in found["steps"]
        for platform in PLATFORMS
    ]


def roofline(record: Fields) -> list[Row]:
    """Return each kernel's modelled time at its full-size shape, with what bounds it."""
    names = ("case", "dtype", "cores", "macs", "elements", "hbm_bytes", "hbm_us")
    return [
        {"platform": platform, "kernel": point["kernel"]}
        | {name: point[name] for name in names}
        | _range("time", "us", point["time_us"])
        | {"bound": point["bound"], "kind_of_bound": point["kind"]}
        for platform, prediction in _predictions(record)
        for point in prediction["roofline"]["points"]
    ]


def validation(record: Fields) -> list[Row]:
    """Return published measurements beside the latency model's values, in each one's unit."""
    points = record["modelled"]["validation"]["points"] if "modelled" in record else []
    return [
        {
            "point": point["id"],
            "group": point["group"],
            "platform": point["platform"],
            "unit": point["unit"],
            "published": point["published"],
            **_range("modelled", "", point["modelled"]),
            "relative_error": point["error"],
            "in_range": point["in_range"],
            "constant_made_of_it": point["used"] or None,
            "source": point["source"],
        }
        for point in points
    ]


def assumptions(record: Fields) -> list[Row]:
    """Return the constants of the latency model, each with its range and its source."""
    names = ("name", "value", "fastest", "slowest", "unit", "confidence", "source")
    return [
        {"platform": platform} | {name: one[name] for name in names}
        for platform, prediction in _predictions(record)
        for one in prediction["assumptions"]
    ]


def _predictions(record: Fields) -> Iterator[tuple[str, Fields]]:
    """Yield each platform's prediction; none of a record without modelled times."""
    if "modelled" in record:
        for platform in PLATFORMS:
            yield platform, record["modelled"]["predictions"][platform]


def _range(name: str, unit: str, values: Fields) -> Row:
    ending = f"_{unit}" if unit else ""
    return {f"{name}_{end}{ending}": values[end] for end in ("low", "nominal", "high")}
