"""The model around the kernels: a tiny checkpoint, the baseline, the same with kernels."""
