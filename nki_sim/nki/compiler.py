"""``nki.compiler``: directives about scheduling and placement, without effect on results.

What builds programs for a device (``kernel_builder``, ``ncc_driver``) does not exist here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..constants import MemoryRegion
from .language import no_reorder as no_reorder

sbuf, psum = MemoryRegion.sbuf, MemoryRegion.psum


def enable_stack_allocator(
    func: Callable[..., Any] | None = None, log_level: int = 50
) -> Callable[..., Any]:
    """The kernel itself: placement is automatic here."""
    return _unchanged(func)


def force_auto_alloc(func: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """The kernel itself."""
    return _unchanged(func)


def skip_middle_end_transformations(func: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """The kernel itself."""
    return _unchanged(func)


def _unchanged(func: Callable[..., Any] | None) -> Callable[..., Any]:
    return func if func is not None else lambda function: function
