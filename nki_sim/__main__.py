"""``python -m nki_sim``: see `cli`."""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a tile is too small to share; before NumPy

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
