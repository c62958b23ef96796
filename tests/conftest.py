"""Shared by all tests: ``import nki`` gives the simulator unless the Neuron SDK is installed."""

from nki_sim.install import install

install()
