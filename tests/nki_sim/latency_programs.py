"""Random programs for the latency model: loads, products, elementwise work and stores on tiles of
one pool, whose sizes are a parameter.
"""

from __future__ import annotations

import random
from dataclasses import replace

import nki
import nki.isa as nisa
import nki.language as nl

import nki_sim
from nki_sim.placeholders import Placeholder
from nki_sim.trace import Event, Launch

ROWS = 128


def program(seed: int, length: int, width: int, cores: int = 1) -> Launch:
    """The account of random program number `seed`; equal seeds differ in sizes alone."""

    def kernel(x):
        rng = random.Random(seed)
        out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        tiles = [loaded(x, rng) for _ in range(3)]
        for _ in range(length):
            statement(rng, x, out, tiles)
        return out

    def loaded(x, rng):
        tile = nl.ndarray((ROWS, width), dtype=x.dtype, buffer=nl.sbuf)
        row = rng.randrange(8) * ROWS
        nisa.dma_copy(dst=tile, src=x[row : row + ROWS, 0:width])
        return tile

    def statement(rng, x, out, tiles):
        draw = rng.random()
        first, second = rng.choice(tiles), rng.choice(tiles)
        if draw < 0.25:
            tiles[rng.randrange(len(tiles))] = loaded(x, rng)
        elif draw < 0.5:
            total = nl.ndarray((ROWS, width), dtype=nl.float32, buffer=nl.psum)
            for _ in range(rng.choice((1, 4))):
                nisa.nc_matmul(dst=total, stationary=first[:, 0:ROWS], moving=second)
            result = nl.ndarray((ROWS, width), dtype=x.dtype, buffer=nl.sbuf)
            nisa.tensor_copy(dst=result, src=total, engine=nisa.engine.vector)
            tiles.append(result)
        elif draw < 0.65:
            nisa.activation(dst=first, op=rng.choice((nl.exp, nl.silu, nl.copy)), data=second)
        elif draw < 0.8:
            half = width // 2
            nisa.tensor_tensor(
                dst=first[:, 0:half], data1=second[:, half:width], data2=second[:, 0:half],
                op=nl.add,
            )  # fmt: skip
        elif draw < 0.9:
            nisa.tensor_scalar(dst=first, data=second, op0=nl.multiply, operand0=2.0)
        else:
            core = nl.program_id(0)
            row = (rng.randrange(4) + 4 * core) * ROWS
            nisa.dma_copy(dst=out[row : row + ROWS, 0:width], src=first)

    x = Placeholder((8 * ROWS, width), "float16")
    with nki_sim.mode("shapes"), nki_sim.record() as recording:
        launched = nki.jit(kernel)
        (launched[cores] if cores > 1 else launched)(x)
    return recording.launches[0]


def with_events(launch: Launch, events: list[Event]) -> Launch:
    """A launch on one core with other instructions."""
    return Launch(launch.kernel, recording=True, instructions=events, issued=len(events))


def renamed(launch: Launch) -> Launch:
    """The same program with other names of everything, and other numbers of allocations."""
    events = [
        replace(
            event,
            name=f"renamed {number}",
            operands=tuple(
                replace(o, name=f"{o.name}!", storage=o.storage * 7 + 3) for o in event.operands
            ),
        )
        for number, event in enumerate(launch.instructions)
    ]
    return with_events(launch, events)
