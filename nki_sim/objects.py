"""``nl.NKIObject``: the base of classes that kernels may build and pass around."""

from __future__ import annotations

import inspect
from typing import Any

from .errors import IllegalProgram


class NKIObject:
    """Gives a class a constructor over its annotated fields and plain class attributes, in order.

    A value that is not given is the class attribute or None; then ``__post_init__`` runs. A class's
    own ``__init__`` (written, or made by ``@dataclass``) stays.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        fields = _fields(type(self))
        unknown = sorted(set(kwargs) - set(fields))
        if len(args) > len(fields) or unknown:
            raise IllegalProgram(
                type(self).__name__, f"has the fields {', '.join(fields)}", f"{args!r} {kwargs!r}"
            )
        given = dict(zip(fields, args, strict=False)) | kwargs
        for name, default in fields.items():
            setattr(self, name, given.get(name, default))
        post_init = getattr(self, "__post_init__", None)
        if post_init is not None:
            post_init()


def _fields(cls: type) -> dict[str, Any]:
    """Field names and defaults, base classes first."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base in (object, NKIObject):
            continue
        names = [*inspect.get_annotations(base), *base.__dict__]
        for name in names:
            value = base.__dict__.get(name)
            if (
                not name.startswith("__")
                and not callable(value)
                and not isinstance(value, property | staticmethod)
            ):
                found[name] = value
    return found
