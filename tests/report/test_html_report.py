"""What a reader finds in the page of `snakemake --report`, figures and tables being real."""

from __future__ import annotations

import base64
import html
import json
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from docutils.core import publish_parts
from jinja2 import Template
from sample_record import simulator_record

from evaluation.files import write_json
from report.captions import Caption
from report.fields import Fields
from report.figures import FIGURES
from report.table_files import frame
from report.tables import tables_of
from tests.workflow.checkout import ROOT, Checkout, copy_repository
from workflow.project import figure_captions, table_captions

RUN = {"platform_target": "trn2", "backend": "simulator"}
RECORD = "results/benchmark_results.json"


@dataclass(frozen=True)
class Page:
    """The page, and the data in it by the name of Snakemake's variable."""

    text: str
    record: dict[str, Any]

    def data(self, variable: str) -> Any:
        start = re.search(rf'<script id="[\w-]+">\s*var {variable} = ', self.text)
        assert start, f"no {variable} in the page"
        return json.JSONDecoder().raw_decode(self.text, start.end())[0]

    def content(self, path: str) -> bytes:
        uri = self.data("results")[path]["data_uri"]
        assert uri.startswith("data:")
        return base64.b64decode(uri.partition("base64,")[2])


def plain(markup: str) -> str:
    """The text of HTML, each white space one blank."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", markup)).split())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of a checkout with a sample record, from which the real programs drew."""
    checkout: Checkout = copy_repository(tmp_path_factory.mktemp("page") / "checkout")
    checkout.run(RECORD)
    record = simulator_record()
    write_json(checkout.path / RECORD, record)
    checkout.run(STANDIN_REAL="plot_figure tabulate")
    checkout.run("--report", "results/report.html")
    return Page((checkout.path / "results" / "report.html").read_text(), record)


def test_results_stand_in_categories_by_basis(page: Page) -> None:
    found = page.data("categories")
    assert {name: set(parts) for name, parts in found.items()} == {
        "Report": {"Other"},
        "Figures": {"measured", "modelled"},
        "Tables": {"measured", "counted", "modelled", "published", "recorded"},
        "Data": {"the record", "tables as CSV"},
    }
    for kind, captions in (("Figures", figure_captions(RUN)), ("Tables", table_captions(RUN))):
        for basis, paths in found[kind].items():
            assert {captions[Path(path).stem].basis for path in paths} == {basis}
            assert len(paths) == sum(one.basis == basis for one in captions.values())


def test_every_result_has_its_caption_and_a_name(page: Page) -> None:
    results = page.data("results")
    wanted: dict[str, Caption] = {
        f"report/figures/{name}.png": one for name, one in figure_captions(RUN).items()
    }
    for name, one in table_captions(RUN).items():
        wanted |= {f"results/tables/{name}.{ending}": one for ending in ("csv", "html")}
    for path, one in wanted.items():
        text = plain(results[path]["caption"])
        assert f"{' '.join(one.caption.split())} Basis: {one.basis}." in text
        assert any(one.title in label for label in results[path]["labels"].values())
    others = results.keys() - wanted.keys()
    assert others == {RECORD, "report/technical_report.pdf"}
    assert all(plain(results[path]["caption"]) for path in others)


def test_no_label_hides_results_behind_a_switch(page: Page) -> None:
    """Snakemake makes a switch of a second label with two values that are equally frequent."""
    assert all(len(result["labels"]) == 1 for result in page.data("results").values())


def test_pictures_and_record_are_in_the_page(page: Page) -> None:
    for name in FIGURES:
        assert page.content(f"report/figures/{name}.png").startswith(b"\x89PNG")
    assert json.loads(page.content(RECORD)) == page.record


def test_tables_are_shown_with_cells_of_the_record(page: Page) -> None:
    for name in tables_of("simulator"):
        first = frame(name, Fields(page.record)).iloc[0]
        shown = cells(page.content(f"results/tables/{name}.html").decode())
        csv = page.content(f"results/tables/{name}.csv").decode()
        assert page.data("results")[f"results/tables/{name}.html"]["mime_type"] == "text/html"
        for value in first:
            text = f"{value:.6g}" if isinstance(value, float) else str(value)
            assert text in shown, (name, value)
            assert str(value).replace('"', '""') in csv


def cells(markup: str) -> set[str]:
    """The texts of a table's cells."""
    return {html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", markup, re.S)}


def test_the_description_says_what_ran_and_what_the_bases_are(page: Page) -> None:
    text = plain(page.data("workflow_desc"))
    assert "Kernels written in NKI for Qwen3-30B-A3B" in text
    assert "no device took part, so there is no measured latency and no score" in text
    assert "A tiny checkpoint of the same architecture" in text and "path fused" in text
    for basis in {one.basis for one in table_captions(RUN).values()}:
        assert f" {basis}: " in text
    assert "{{" not in text and "{%" not in text and "System Message" not in text


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        (
            "neuron",
            "It ran on a Trainium device (trn3): latency, throughput and score are measured.",
        ),
        ("neuron-simulator", "on the Neuron SDK's CPU simulator; no device took part"),
    ],
)
def test_the_description_follows_the_configuration(backend: str, said: str) -> None:
    text = (ROOT / "workflow" / "report" / "workflow.rst").read_text()
    run = {
        "backend": backend,
        "platform_target": "trn3",
        "model": {"repo_id": "a/b", "kernel_path": "rows", "dtype": "bfloat16"},
        "evaluation": {"sequence_length": 64},
    }
    rendered = Template(text, trim_blocks=True).render(snakemake={"config": run})
    body = plain(publish_parts(rendered, writer="html")["html_body"])
    assert said in body and "System Message" not in body
    assert "a/b of the Hugging Face Hub ran as baseline and with kernels (path rows" in body
    assert ("times on the device" in body) == (backend == "neuron")


def test_the_page_loads_nothing(page: Page) -> None:
    class Loads(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            found.extend(
                value
                for name, value in attributes
                if name in ("src", "href", "srcset") and tag in ("script", "link", "img", "iframe")
            )

    found: list[str | None] = []
    Loads().feed(page.text)
    assert found == []


def test_what_the_report_says_exists_for_every_mark() -> None:
    """Each caption file is used by a rule, and each that a rule names is there."""
    rules = "".join(f.read_text() for f in (ROOT / "workflow" / "rules").glob("*.smk"))
    named = set(re.findall(r'caption="\.\./report/(\w+\.rst)"', rules))
    assert named | {"workflow.rst"} == {f.name for f in (ROOT / "workflow/report").glob("*.rst")}
