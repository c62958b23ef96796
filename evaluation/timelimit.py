"""Ends a run that hangs: a device or a compiler may never answer."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from evaluation.commandline import FAILED

_GRACE_S = 5.0


@contextmanager
def time_limit(limit_s: int | None) -> Iterator[None]:
    """End the process with status 1 when the body takes longer than `limit_s`; None sets no limit.

    The process ends without clean-up, which nothing here needs: no result is ever half-written.
    Should a library keep Python's other threads from running, a watchdog in C ends the process a
    little later and shows where it hung.
    """
    if limit_s is None:
        yield
        return
    timer = threading.Timer(limit_s, _end, [limit_s])
    timer.daemon = True
    timer.start()
    faulthandler.dump_traceback_later(limit_s + _GRACE_S, exit=True)
    try:
        yield
    finally:
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()


def _end(limit_s: int) -> None:
    print(
        f"main.py: not done after {limit_s} s (--time-limit-s): ended. What was complete is kept; "
        "raise the limit, or look with neuron-top what the device does",
        file=sys.stderr,
        flush=True,
    )
    faulthandler.dump_traceback(all_threads=True)
    os._exit(FAILED)
