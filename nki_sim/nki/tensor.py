"""``nki.tensor``: constants that exist while a kernel is traced, for ``nl.shared_constant``."""

from ..host_tensors import TraceTimeTensor, arange, identity, ones, zeros

__all__ = ["TraceTimeTensor", "arange", "identity", "ones", "zeros"]
