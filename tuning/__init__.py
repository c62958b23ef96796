"""Evaluates the tuned variants of kernels (`kernels.variants`): right or wrong, and how fast.

``python -m tuning variant NAME --output FILE`` evaluates one, ``python -m tuning collect FILE ...``
puts all of them into one table. Times are modelled.
"""
