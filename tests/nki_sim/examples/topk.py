"""The 8 largest values of each row and their places, as a router of experts needs them."""

import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def topk(scores):
    """(values [T, 8], places [T, 8] uint32) of scores [T, E], T <= 128."""
    tokens, experts = scores.shape
    tile = nl.ndarray((tokens, experts), dtype=scores.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=scores)
    values = nl.ndarray((tokens, 8), dtype=scores.dtype, buffer=nl.sbuf)
    nisa.max8(dst=values, src=tile)
    places = nl.ndarray((tokens, 8), dtype=nl.uint32, buffer=nl.sbuf)
    nisa.nc_find_index8(dst=places, data=tile, vals=values)
    values_out = nl.ndarray((tokens, 8), dtype=scores.dtype, buffer=nl.shared_hbm)
    places_out = nl.ndarray((tokens, 8), dtype=nl.uint32, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=values_out, src=values)
    nisa.dma_copy(dst=places_out, src=places)
    return values_out, places_out
