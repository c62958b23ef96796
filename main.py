#!/usr/bin/env python3
"""The challenge's command line: generate, validate, evaluate_single, evaluate_all.

See `python3 main.py --help`. It may be started from any folder.
"""

from __future__ import annotations

import sys

from evaluation.commandline import FAILED, explain_absence


def start() -> int:
    """Let `import nki` find the simulator where it is wanted, run, and return the exit status."""
    try:
        from nki_sim import install

        install.install()  # before anything imports `nki`
        from evaluation.driver import main
    except ModuleNotFoundError as error:
        print(f"main.py: {explain_absence(error)}", file=sys.stderr)
        return FAILED
    return main()


if __name__ == "__main__":
    sys.exit(start())
