"""``python -m benchmarks``: see `run`."""

import os
import sys

if "--threads" not in sys.argv:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported

from benchmarks.run import main

main()
