"""Shared by all tests: ``import nki`` gives the simulator unless the Neuron SDK is installed."""

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # a tile is too small to share; before NumPy is imported

from nki_sim.install import install  # noqa: E402

install()
