"""``nki.dtype``: the data types again, as annotations name them."""

from ..dtypes import TABLE

globals().update({name: name for name in TABLE})
bool_ = "bool"
tfloat32 = "tfloat32"

__all__ = [*sorted(TABLE), "bool_"]
