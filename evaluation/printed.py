"""The numbers that the report prints, as the list that is written beside it tells them."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from evaluation.files import FileError, read_json

NUMBERS = "report/technical_report.numbers.json"


@dataclass(frozen=True)
class Printed:
    """A number of the report.

    Attributes:
        printed: its digits, as in the PDF but for the separators of thousands and the exponent.
        place: the table, or the section and paragraph.
        context: the words around it, or the head of its row.
        line: of the LaTeX source, from 1.
        how: the computation, in keys of the record.
        keys: of the record, each once.
    """

    printed: str
    place: str
    context: str
    line: int
    how: str
    keys: list[str]


def number_in(text: str) -> Decimal | None:
    """Return the number that a text is, as "12,498.00", "3.7e-05" or "+4.4"; None if it is none."""
    try:
        value = Decimal(text.strip().replace(",", ""))
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def places_of(asked: Decimal, root: Path, record_sha256: str) -> list[Printed]:
    """Return the places where the report below `root` prints a number, in order.

    LookupError if there is no report, if it is that of another record, or if it has no such number.
    """
    path = root / NUMBERS
    try:
        listed = read_json(path)
    except FileError as error:
        raise LookupError(
            f"{error}; the report's numbers are listed there when it is built: ./run"
        ) from None
    if listed["record_sha256"] != record_sha256:
        raise LookupError(
            f"{path}: is of record {listed['record_sha256'][:12]}, not of {record_sha256[:12]}: "
            "build the report again (./run), or explain a key of the record"
        )
    found = [Printed(**one) for one in listed["numbers"] if Decimal(one["printed"]) == asked]
    if not found:
        raise LookupError(f"the report prints no {asked}; it is looked up digit by digit")
    return found
