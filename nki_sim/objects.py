"""``nl.NKIObject``: the base of classes that kernels may build and pass around."""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABCMeta
from typing import Any

from .errors import IllegalProgram

_METHODS = (property, staticmethod, classmethod, type)


class _Constructed(ABCMeta):
    """Gives instances the vendor's constructor where CPython's ``@dataclass`` made one.

    Published kernels decorate classes whose attributes have no annotations, and leave out fields
    without defaults: CPython's constructor refuses both.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if _is_generated(cls.__init__):  # type: ignore[misc]
            made: Any = object.__new__(cls)  # type: ignore[arg-type]
            NKIObject.__init__(made, *args, **kwargs)
            return made
        return super().__call__(*args, **kwargs)


class NKIObject(metaclass=_Constructed):
    """Gives a class a constructor over its annotated fields and plain class attributes, in order.

    A value that is not given is the class attribute or None; then ``__post_init__`` runs. A class's
    own ``__init__`` stays.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        fields = _fields(type(self))
        names = [name for name, (_, settable) in fields.items() if settable]
        unknown = sorted(set(kwargs) - set(names))
        twice = sorted(set(kwargs) & set(names[: len(args)]))
        if len(args) > len(names) or unknown or twice:
            raise IllegalProgram(
                type(self).__name__, f"has the fields {', '.join(names)}", f"{args!r} {kwargs!r}"
            )
        given = dict(zip(names, args, strict=False)) | kwargs
        for name, (default, _) in fields.items():
            value = given[name] if name in given else _value(default)
            object.__setattr__(self, name, value)
        post_init = getattr(self, "__post_init__", None)
        if post_init is not None:
            post_init()


def _is_generated(init: Any) -> bool:
    """Whether ``@dataclass`` wrote an ``__init__``."""
    code = getattr(init, "__code__", None)
    return code is not None and code.co_filename == "<string>"


def _fields(cls: type) -> dict[str, tuple[Any, bool]]:
    """Field names, base classes first, with defaults and whether the constructor takes them."""
    found: dict[str, tuple[Any, bool]] = {}
    for base in reversed(cls.__mro__):
        if base in (object, NKIObject):
            continue
        annotated = inspect.get_annotations(base)
        known = base.__dict__.get("__dataclass_fields__", {})
        for name in [*annotated, *base.__dict__]:
            value = known.get(name, base.__dict__.get(name))
            is_field = name in annotated or not (
                inspect.isroutine(value) or isinstance(value, _METHODS)
            )
            if is_field and not name.startswith(("__", "_abc_")):
                settable = not isinstance(value, dataclasses.Field) or value.init
                found[name] = (value, settable)
    return found


def _value(default: Any) -> Any:
    """The default of a field; None where it has none."""
    if not isinstance(default, dataclasses.Field):
        return default
    if default.default_factory is not dataclasses.MISSING:
        return default.default_factory()
    return None if default.default is dataclasses.MISSING else default.default
