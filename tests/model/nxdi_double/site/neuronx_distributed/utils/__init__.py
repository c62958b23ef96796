"""The double of neuronx_distributed.utils."""

import os


def cpu_mode() -> bool:
    """Whether NxD runs on the CPU, by the environment variable that NxD reads."""
    return os.environ.get("NXD_CPU_MODE") == "1"
