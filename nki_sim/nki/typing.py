"""``nki.typing``: annotations of kernel parameters, without effect."""

from __future__ import annotations


class tensor:
    """``nt.tensor``, ``nt.tensor[shape]`` or ``nt.tensor[dtype, shape]``."""

    def __class_getitem__(cls, shape: object) -> type[tensor]:
        return cls


class mutable_tensor(tensor):
    """A tensor that the kernel writes in place."""


__all__ = ["mutable_tensor", "tensor"]
