"""Tables as files: CSV in full precision for programs, HTML in six digits for readers."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from pandas import DataFrame

from evaluation.files import read_json, sha256_file, write_atomically
from report.captions import Caption, captions
from report.fields import Fields
from report.tables import TABLES, tables_of

ABSENT = "the record of this run holds nothing for this table"
_PROSE_LENGTH = 60
_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 14px/1.45 system-ui, sans-serif; color: #222; background: #fff; margin: 1.5em; }}
h1 {{ font-size: 1.2em; margin: 0; }}
p {{ max-width: 60em; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.25em 0.8em; text-align: left; vertical-align: top; }}
th {{ border-bottom: 2px solid #0b4f7d; position: sticky; top: 0; background: #fff; }}
td {{ border-bottom: 1px solid #ddd; max-width: 40em; overflow-wrap: break-word; }}
td.word {{ white-space: nowrap; }}
td.prose {{ min-width: 30em; }}
footer {{ color: #5b5b5b; margin-top: 1em; }}
</style>
<h1>{title}</h1>
<p>{caption} <strong>Basis: {basis}.</strong></p>
{table}
<footer>From the record {sha256}.</footer>
</html>
"""


def frame(name: str, record: Fields) -> DataFrame:
    """Return the table `name`; whole numbers stay whole, and what a row has not is empty.

    ValueError for a table that the record's backend does not have.
    """
    known = tables_of(record["backend"])
    if name not in known:
        raise ValueError(f"no table {name!r} on {record['backend']}; known: {', '.join(known)}")
    rows = TABLES[name](record) or [{"absent": ABSENT}]
    return DataFrame(rows, dtype=object).fillna("")


def page(table: DataFrame, caption: Caption, record_sha256: str) -> str:
    """Return a table as a page of its own that needs no other file; all text is escaped.

    Names of columns may break after an underscore, so that they are no wider than their values;
    numbers and words never break.
    """
    cells = table.to_html(index=False, border=0, float_format="{:.6g}".format)
    head, end, body = cells.partition("</thead>")
    body = re.sub(r"<td>([^<]*)", _cell, body)
    return _PAGE.format(
        title=escape(caption.title),
        caption=escape(caption.caption),
        basis=escape(caption.basis),
        table=f"{head.replace('_', '_<wbr>')}{end}{body}",
        sha256=record_sha256,
    )


def _cell(match: re.Match[str]) -> str:
    """Return the start of a cell with its kind, by which the page's style breaks it."""
    if " " not in match[1]:
        return f'<td class="word">{match[1]}'
    return f'<td class="prose">{match[1]}' if len(match[1]) > _PROSE_LENGTH else match[0]


def write_table(name: str, record_path: Path, csv: Path, html: Path) -> None:
    """Write the table `name` of the record at a path as CSV and as HTML."""
    record = Fields(read_json(record_path))
    table = frame(name, record)
    caption = captions("tables", platform=record["platform_target"])[name]
    write_atomically(csv, table.to_csv(index=False))
    write_atomically(html, page(table, caption, sha256_file(record_path)))
