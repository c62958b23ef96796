"""What a launch on shapes returns instead of an array: a shape and a type, no numbers.

NumPy callers receive a `Placeholder`, torch callers a tensor on the ``meta`` device. Both can be
given to the next launch on shapes, and neither can be read.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import numpy as np

from .errors import NoNumbers

Shape = tuple[int, ...]


class Placeholder:
    """An array without numbers.

    Attributes:
        shape: as of an array.
        dtype: its NumPy (or ml_dtypes) type.
    """

    __slots__ = ("dtype", "shape")
    __hash__ = object.__hash__

    def __init__(self, shape: Shape, dtype: Any) -> None:
        self.shape = tuple(int(size) for size in shape)
        self.dtype = np.dtype(dtype)

    def __repr__(self) -> str:
        return f"Placeholder(shape={self.shape}, dtype={self.dtype})"

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that the array would have."""
        return self.size * self.dtype.itemsize

    @property
    def T(self) -> Placeholder:
        """The dimensions reversed."""
        return Placeholder(self.shape[::-1], self.dtype)

    def _dummy(self) -> np.ndarray[Any, Any]:
        """An array of the same shape on one element of memory."""
        return np.broadcast_to(np.zeros((), np.uint8), self.shape)

    def reshape(self, *shape: Any) -> Placeholder:
        """The same elements in another shape."""
        wanted = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        known = -math.prod(wanted) if -1 in wanted else 0
        filled = tuple(self.size // known if size == -1 and known else size for size in wanted)
        if math.prod(filled) != self.size or min(filled, default=1) < 0:
            raise ValueError(f"cannot reshape {self} into {wanted}")
        return Placeholder(filled, self.dtype)

    def transpose(self, *axes: Any) -> Placeholder:
        """The dimensions in another order."""
        return Placeholder(self._dummy().transpose(*axes).shape, self.dtype)

    def astype(self, dtype: Any, **_: Any) -> Placeholder:
        """Another type."""
        return Placeholder(self.shape, dtype)

    def copy(self) -> Placeholder:
        """The same again."""
        return Placeholder(self.shape, self.dtype)

    def __getitem__(self, index: Any) -> Placeholder:
        return Placeholder(self._dummy()[index].shape, self.dtype)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a placeholder without dimensions")
        return self.shape[0]

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise NoNumbers(
            "reading a result",
            "a launch on shapes computes no numbers",
            repr(self),
            'run the kernel outside nki_sim.mode("shapes")',
        )

    item = tolist = tobytes = __array_ufunc__ = _refuse
    __array__ = __float__ = __int__ = __index__ = __bool__ = __complex__ = __iter__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _refuse
    __rtruediv__ = __matmul__ = __rmatmul__ = __pow__ = __neg__ = __abs__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __setitem__ = _refuse
