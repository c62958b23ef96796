"""The kinds of record that the tests go through."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
from sample_record import device_record, simulator_record

RECORDS: dict[str, Callable[[], dict[str, Any]]] = {
    "simulator": simulator_record,
    "simulator, two prompts failing": lambda: simulator_record((1, 3)),
    "device, faster": device_record,
    "device, slower": lambda: device_record(0.9),
    "device, as modelled": lambda: device_record(3.0, "layered"),
}


@pytest.fixture(params=RECORDS)
def record(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each kind of record in turn."""
    return RECORDS[request.param]()


@pytest.fixture(scope="session")
def needs_latexmk() -> None:
    """Skip where TeX is not installed."""
    if shutil.which("latexmk") is None:
        pytest.skip("latexmk is not installed")
