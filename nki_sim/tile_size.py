"""``nl.tile_size``: the architecture's sizes as kernels ask for them."""

from __future__ import annotations

from .machine import PARTITIONS, PSUM_BANK_BYTES, PSUM_BANKS, platform_from_environment, running


class TileSize:
    """Sizes in elements unless the name says bytes; free sizes are per partition."""

    pmax = PARTITIONS
    psum_num_banks = PSUM_BANKS
    psum_bank_fmax_bytes = PSUM_BANK_BYTES
    psum_bank_fmax = psum_fmax = PSUM_BANK_BYTES // 4
    gemm_stationary_fmax = 128
    gemm_moving_fmax = 512
    bn_stats_fmax = 512
    psum_min_align = 4
    sbuf_min_align = 1

    @property
    def sbuf_fmax_bytes(self) -> int:
        """Usable SBUF bytes per partition."""
        program = running()
        return (program.platform if program else platform_from_environment()).sbuf_bytes

    @property
    def sbuf_size_bytes(self) -> int:
        """Usable SBUF bytes over all partitions."""
        return self.sbuf_fmax_bytes * PARTITIONS

    @property
    def sbuf_fmax(self) -> int:
        """Usable fp32 elements of SBUF per partition."""
        return self.sbuf_fmax_bytes // 4

    @property
    def total_available_sbuf_size(self) -> int:
        """Usable SBUF bytes per partition, whatever the name suggests."""
        return self.sbuf_fmax_bytes
