"""Shared by all tests: ``import nki`` gives the simulator unless the Neuron SDK is installed."""

import os

import pytest

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # a tile is too small to share; before NumPy is imported

from nki_sim.install import install  # noqa: E402

install()

LONGEST = (
    "test_documentation.py", "test_staleness.py", "test_interruptions.py", "test_main.py",
    "test_neuron_backend.py", "test_neuron_flow.py", "test_build.py", "test_tiny.py",
)  # fmt: skip
"""Files that take a minute or more each. They come first: one at the end would be waited for."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files; a worker takes the next one when it is through with its own."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
