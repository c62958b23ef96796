"""Captions say what the figures rest on, in words that PDF, HTML report and README share."""

from __future__ import annotations

import re
from typing import Any

import pytest

from prediction import launches
from report.captions import captions
from report.figures import FIGURES

WORDS = {2: "two", 4: "four"}
OF_MODEL = [name for name, one in captions("figures").items() if one.basis == "modelled"]


def test_every_figure_has_a_caption_in_their_order() -> None:
    assert list(captions("figures")) == list(FIGURES)


def test_values_of_the_run_stand_in_captions() -> None:
    text = captions("figures", platform="trn9")["roofline"].caption
    assert "trn9" in text and "{" not in text
    with pytest.raises(KeyError, match="platform"):
        captions("figures", other="x")


def test_no_number_is_typed_in_a_caption() -> None:
    for one in captions("figures").values():
        assert re.findall(r"\d", re.sub(r"Qwen3-30B-A3B|BF16|FP32", "", one.caption)) == []


def test_conditions_of_modelled_figures_are_the_prediction_s() -> None:
    model = launches.MODEL.partition("/")[2]
    ranks, cores = WORDS[launches.RANKS], WORDS[launches.CORES]
    wanted = f"{model} in BF16 on {ranks} ranks of {cores} cores"
    assert launches.DTYPE == "bfloat16"
    for name in ("scores", "token_time"):
        assert wanted in captions("figures")[name].caption
    assert f"on one of {ranks} ranks" in captions("figures")["tuning_ladder"].caption


def test_bases_are_those_of_the_record(record: dict[str, Any]) -> None:
    found = captions("figures")
    assert {found[name].basis for name in OF_MODEL} == {record["modelled"]["basis"]}
    accuracy = {prompt["nki"]["accuracy"]["basis"] for prompt in record["per_prompt_results"]}
    assert accuracy == {found["accuracy_margin"].basis} == {found["drift"].basis}
