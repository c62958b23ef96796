"""Wrappers of the vendor's functions: clear errors for wrong or unmodelled calls."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from ..errors import IllegalProgram
from ..schedule import advise
from ..views import NkiTensor

Function = TypeVar("Function", bound=Callable[..., Any])


def vendor(function: Function) -> Function:
    """Turn a call that does not fit the signature into `IllegalProgram` with the legal names."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            if _repeats_type(function, args, kwargs):
                return function(*args, **{k: v for k, v in kwargs.items() if k != "dtype"})
            _explain(function, args, kwargs, error)
            raise

    return call  # type: ignore[return-value]


def _repeats_type(function: Callable[..., Any], args: Any, kwargs: Any) -> bool:
    """Whether all that is wrong is a ``dtype=`` that says again which type dst has; warns of it."""
    signature = inspect.signature(function)
    others = {name: value for name, value in kwargs.items() if name != "dtype"}
    if len(others) == len(kwargs) or "dtype" in signature.parameters:
        return False
    with suppress(TypeError):
        dst = signature.bind(*args, **others).arguments.get("dst")
        if isinstance(dst, NkiTensor) and kwargs["dtype"] == dst.dtype:
            advise(
                f"{function.__name__}: dtype= is documented on no release, and says here what dst "
                "says already: leave it out"
            )
            return True
    return False


def _explain(function: Callable[..., Any], args: Any, kwargs: Any, error: TypeError) -> None:
    signature = inspect.signature(function)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as mismatch:
        raise IllegalProgram(
            function.__name__,
            f"parameters are {', '.join(signature.parameters)}",
            f"a call with {mismatch}",
        ) from error


def member(kind: Any, value: Any, operation: str) -> Any:
    """A member of an enumeration; integers, which SDK 2.28 accepted, with a warning."""
    if isinstance(value, kind):
        return value
    if type(value) is int and value in {known.value for known in kind}:
        warnings.warn(
            f"{operation}: integer {value} for {kind(value)!r} is documented as refused from SDK "
            "2.29 on",
            stacklevel=4,
        )
        return kind(value)
    raise IllegalProgram(operation, f"takes one of {', '.join(map(repr, kind))}", repr(value))
