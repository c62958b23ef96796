"""Pictures of the report and its figures for README, each with the hash of its record."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import matplotlib.image
import numpy as np

from report.drawing import RECORD_KEY
from report.fields import ReportError

_PAGES, _PAGE_DPI, _GAP_PIXELS = 3, 62, 12


def pages(pdf: Path, record_sha256: str) -> bytes:
    """Return a PNG of the report's first pages side by side; needs pdftoppm of poppler-utils."""
    with tempfile.TemporaryDirectory(prefix="pages-") as folder:
        command = ["pdftoppm", "-png", "-r", str(_PAGE_DPI), "-l", str(_PAGES), str(pdf)]
        try:
            subprocess.run([*command, f"{folder}/page"], check=True, capture_output=True)
        except FileNotFoundError:
            raise ReportError("pdftoppm is not installed; it is in poppler-utils") from None
        except subprocess.CalledProcessError as error:
            raise ReportError(f"{pdf}: no pages: {error.stderr.decode().strip()}") from None
        found = [matplotlib.image.imread(page) for page in sorted(Path(folder).glob("*.png"))]
    gap = np.full((found[0].shape[0], _GAP_PIXELS, 3), 0.85, np.float32)
    parts = [part for page in found for part in (gap, page[..., :3])]
    stream = BytesIO()
    row = np.concatenate([*parts[1:]], axis=1)
    matplotlib.image.imsave(stream, row, format="png", metadata={RECORD_KEY: record_sha256})
    return stream.getvalue()


def figures(folder: Path, names: Iterable[str], record_sha256: str) -> dict[str, bytes]:
    """Return the PNG of each figure by name; ReportError for one that is missing or of other data.

    `drawing.save` writes the hash of the record into each.
    """
    found = {}
    for name in names:
        path = folder / f"{name}.png"
        if not path.is_file():
            raise ReportError(f"{path} is missing; it is made by: snakemake --cores 1")
        found[name] = path.read_bytes()
        if record_sha256.encode() not in found[name]:
            raise ReportError(f"{path} is not of this record; it is made by: snakemake --cores 1")
    return found
