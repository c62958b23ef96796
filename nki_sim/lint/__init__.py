"""A static check of a kernel's Python against what the NKI compiler accepts, per SDK release.

The simulator runs any Python; the compiler does not. `check` reads the kernel and everything that
it reaches, without running it, and names each place that some release refuses.
"""

from .check import check
from .finding import Finding
from .rules import RULES
from .versions import VERSIONS

__all__ = ["RULES", "VERSIONS", "Finding", "check"]
