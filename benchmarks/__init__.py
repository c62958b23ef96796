"""How fast the simulator is; see README.md. Importing this makes ``import nki`` the simulator."""

from nki_sim.install import install

install()
