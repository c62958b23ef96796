"""NKI kernels of Qwen3-30B-A3B, with their NumPy oracles, legal inputs and comparison."""
