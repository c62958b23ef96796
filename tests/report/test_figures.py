from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from sample_record import device_record, simulator_record

from evaluation.files import write_json
from report.drawing import COLUMN_IN, STYLE, number_points, short
from report.fields import Fields
from report.figures import FIGURES, plot


def drawn(name: str, record: dict[str, Any]) -> Figure:
    with matplotlib.rc_context(STYLE):
        figure = FIGURES[name](Fields(record))
        FigureCanvasAgg(figure).draw()
    return figure


def texts(figure: Figure) -> list[Text]:
    """Every text but the numbers at ticks, of which Matplotlib keeps some that it never draws."""
    found = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_text().strip())
    return [
        text
        for text in found
        if isinstance(text, Text)
        and "mathdefault" not in text.get_text()
        and not text.get_text().replace(".", "").isdigit()
    ]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_fits_a_column_in_legible_type(name: str, record: dict[str, Any]) -> None:
    figure = drawn(name, record)
    assert figure.get_size_inches()[0] == COLUMN_IN
    assert min(float(text.get_fontsize()) for text in texts(figure)) >= 7


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off(name: str, record: dict[str, Any]) -> None:
    figure = drawn(name, record)
    edge = figure.bbox
    for text in texts(figure):
        box = text.get_window_extent()
        visible = text.get_visible() and box.width > 0
        assert not visible or (box.x0 >= edge.x0 - 1 and box.x1 <= edge.x1 + 1), text.get_text()


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_record_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    record_path = tmp_path / "record.json"
    write_json(record_path, simulator_record())
    for folder in ("a", "b"):
        plot(name, record_path, tmp_path / folder / "f.pdf", tmp_path / folder / "f.png")
    for suffix in ("pdf", "png"):
        first, second = ((tmp_path / folder / f"f.{suffix}").read_bytes() for folder in ("a", "b"))
        assert first == second
    assert b"CreationDate" not in (tmp_path / "a" / "f.pdf").read_bytes()
    assert (tmp_path / "a" / "f.png").read_bytes().startswith(b"\x89PNG")


def shown_numbers(axes: Axes) -> set[float]:
    """Every x at which a line or marker stands."""
    return {float(x) for line in axes.lines for x in np.atleast_1d(np.asarray(line.get_xdata()))}


def test_the_accuracy_figure_shows_the_recorded_values() -> None:
    record = simulator_record()
    left, right = drawn("accuracy_margin", record).axes
    for prompt in record["per_prompt_results"]:
        accuracy = prompt["nki"]["accuracy"]
        assert {e["worst_relative_error"] for e in accuracy["top_k"]} <= shown_numbers(left)
        assert accuracy["smallest_baseline_gap"] in shown_numbers(right)


def stands(value: float, axes: Axes) -> bool:
    """Whether a line or marker stands at x = `value`, but for rounding."""
    return any(x == pytest.approx(value) for x in shown_numbers(axes))


def test_scores_stand_with_their_ranges_and_what_was_measured() -> None:
    record = device_record()
    left, right = drawn("scores", record).axes
    for platform in ("trn2", "trn3"):
        path = record["modelled"]["predictions"][platform]["paths"]["fused"]
        for prompt in path["prompts"]:
            assert stands(prompt["score"]["nominal"], right)
            assert stands(prompt["latency_ms"]["nominal"] / 1000, left)
    for prompt in record["per_prompt_results"]:
        assert stands(prompt["nki"]["latency_ms"] / 1000, left)
        assert stands(prompt["nki"]["score"], right)
    assert len(drawn("scores", simulator_record()).axes[0].lines) < len(left.lines)


def test_the_parts_of_a_token_add_up() -> None:
    record = simulator_record()
    ends = {
        patch.get_x() + patch.get_width() for patch in drawn("token_time", record).axes[0].patches
    }
    for platform in ("trn2", "trn3"):
        step = record["modelled"]["predictions"][platform]["paths"]["fused"]["decode"][-1]
        assert any(end == pytest.approx(step["total_us"]["nominal"] / 1000) for end in ends)


def test_every_kernel_stands_under_its_roof() -> None:
    axes = drawn("roofline", record := simulator_record()).axes[0]
    found = record["modelled"]["predictions"][record["platform_target"]]["roofline"]
    legends = {text.get_text().split(" ", 1)[1] for text in axes.figure.legends[0].get_texts()}
    assert legends == {point["kernel"] for point in found["points"]}
    for point in found["points"]:
        intensity = (point["macs"] or point["elements"]) / point["hbm_bytes"]
        assert stands(intensity, axes)


def test_numbers_of_points_cover_neither_each_other_nor_points() -> None:
    figure = Figure(figsize=(3.3, 2.5))
    axes = figure.subplots()
    rng = np.random.default_rng(3)
    places = [(float(x), float(y)) for x, y in 0.03 * rng.random((12, 2))] + [
        (0.0, 0.0),
        (1.0, 1.0),
    ]
    axes.plot([x for x, _ in places], [y for _, y in places], "o")
    number_points(axes, places)
    FigureCanvasAgg(figure).draw()
    centres = [text.get_window_extent().get_points().mean(axis=0) for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == [str(n + 1) for n in range(len(places))]
    points = [axes.transData.transform(place) for place in places]
    for index, centre in enumerate(centres):
        for other in [*points, *centres[:index]]:
            assert float(np.abs(centre - other).max()) > 4.0, index + 1


def test_every_published_point_is_drawn() -> None:
    record = simulator_record()
    axes = drawn("predicted_against_published", record).axes[0]
    for point in record["modelled"]["validation"]["points"]:
        assert point["published"] in shown_numbers(axes)


def test_measurements_of_what_was_modelled_are_among_the_points() -> None:
    record = device_record(3.0, "layered")
    axes = drawn("predicted_against_published", record).axes[0]
    for prompt in record["per_prompt_results"]:
        assert 1e3 * prompt["nki"]["host_time"]["p50_ms"] in shown_numbers(axes)
    assert axes.get_ylabel() == "modelled over measured"
    assert drawn("predicted_against_published", device_record()).axes[0].get_xlabel() == (
        "published (µs)"
    )


def test_the_drift_figure_shows_every_layer_of_every_run() -> None:
    record = simulator_record()
    for axes, phase in zip(drawn("drift", record).axes, ("prefill", "decode_step"), strict=True):
        shown = [list(np.asarray(line.get_ydata(), dtype=float)) for line in axes.lines]
        assert len(shown) == 1 + len(record["path_checks"])
        for line, check in zip(shown[1:], record["path_checks"], strict=True):
            layers = check["drift"]["layers"]
            assert line == [entry["relative"] for entry in layers if entry["phase"] == phase]


MODELLED = ("scores", "token_time", "layer_timeline", "roofline", "predicted_against_published")


@pytest.mark.parametrize("name", ["drift", *MODELLED])
def test_a_figure_without_data_says_so(name: str) -> None:
    record = device_record()
    del record["modelled"]
    shown = [text.get_text() for text in drawn(name, record).axes[0].texts]
    assert len(shown) == 1 and shown[0].endswith("in this record")


def test_zeros_stand_on_a_logarithmic_axis() -> None:
    record = simulator_record()
    for prompt in record["per_prompt_results"]:
        prompt["nki"]["accuracy"]["max_abs_logit_error"] = 0.0
        for entry in prompt["nki"]["accuracy"]["top_k"]:
            entry["worst_relative_error"] = 0.0
    for kernel in record["nki_kernels_implemented"]:
        for dtype in {"float32", "bfloat16"} & kernel["validation"].keys():
            kernel["validation"][dtype]["max_abs_error"] = 0.0
    for name in FIGURES:
        for axes in drawn(name, record).axes:
            low, high = axes.get_xlim()
            shown = [x for line in axes.lines for x in np.atleast_1d(np.asarray(line.get_xdata()))]
            assert all(low <= float(x) <= high for x in shown)


def test_mathematics_in_names_is_text() -> None:
    record = simulator_record()
    record["per_prompt_results"][0]["name"] = r"$\frac$ {} _^ $x$"
    record["per_prompt_results"][1]["name"] = "$" * 300
    drawn("accuracy_margin", record)


@pytest.mark.parametrize("text", ["Seating arrangement", "", "W" * 300, "i" * 300, "$" * 300])
def test_names_are_cut_to_a_width(text: str) -> None:
    for limit_in in (0.5, 1.4):
        figure = Figure()
        name = figure.text(0, 0, short(text, limit_in), size=7.5, family=STYLE["font.family"])
        FigureCanvasAgg(figure).draw()
        assert name.get_window_extent().width <= limit_in * figure.dpi + 2
    cut = short(text, 1.4)
    assert cut == text if len(text) < 30 else cut.endswith("\N{HORIZONTAL ELLIPSIS}")


def test_the_widest_names_leave_room_for_the_figures(tmp_path: Path) -> None:
    record = simulator_record()
    for prompt in record["per_prompt_results"]:
        prompt["name"] = "W" * 300
    for name in ("accuracy_margin", "scores"):
        figure = drawn(name, record)
        figure.draw_without_rendering()
        assert sum(axes.get_position().width for axes in figure.axes) > 0.4


def test_an_unknown_figure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown figure 'pie'; known: accuracy_margin"):
        plot("pie", tmp_path / "r.json", tmp_path / "f.pdf", tmp_path / "f.png")
