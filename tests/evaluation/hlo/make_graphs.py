"""Writes the HLO modules beside it with a real compiler: python make_graphs.py (needs jax).

Small graphs with the parts that counting meets: dots with batch dimensions and with several
contracted ones, kernels as the Neuron SDK's custom call, custom calls that are no kernels, a loop.
The tests state by hand what each must count.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

FOLDER = Path(__file__).resolve().parent
NKI_TARGET = "AwsNeuronCustomNativeKernel"


def kernel(name: str, macs: int, *inputs: Any, shape: tuple[int, ...]) -> Any:
    """An NKI kernel as it stands in a graph: a custom call that states its own name and MACs."""
    stated = json.dumps({"func_name": name, "grid": [], "mac_count": macs})
    call = jax.ffi.ffi_call(
        NKI_TARGET,
        jax.ShapeDtypeStruct(shape, jnp.float32),
        custom_call_api_version=1,
        legacy_backend_config=base64.b64encode(stated.encode()).decode(),
    )
    return call(*inputs)


def prefill(x: Any, weight: Any, experts: Any) -> Any:
    """Dots of 128 x 8 x 16 and twice 3 x 128 x 16 x 4, one of them batched; kernels of 65536, 0."""
    hidden = x @ weight
    hidden = kernel("kernels.moe.experts", 65536, hidden, shape=(128, 16))
    hidden = kernel("kernels.norm.rmsnorm", 0, hidden, shape=(128, 16))
    return jnp.einsum("th,eho->eto", hidden, experts) + jnp.einsum(
        "eth,eho->eto", jnp.stack([hidden] * 3), experts
    )


def decode(x: Any, weight: Any, cache: Any) -> Any:
    """1 x 8 x 16 = 128, then 2 x 1 x (16 x 5) x 7 = 1120 with two contracted dimensions."""
    hidden = kernel("kernels.norm.rmsnorm", 0, x @ weight, shape=(1, 16))
    wide = jnp.broadcast_to(hidden[:, :, None], (2, 16, 5))
    return jnp.einsum("bij,bijk->bk", wide, cache)


def loop(x: Any, weight: Any) -> Any:
    """A loop of 10 turns around one dot of 4 x 8 x 8."""
    return jax.lax.fori_loop(0, 10, lambda _, value: value @ weight, x)


def no_products(x: Any) -> Any:
    """Nothing is multiplied and accumulated."""
    other = jax.ffi.ffi_call(
        "AwsNeuronSilu", jax.ShapeDtypeStruct(x.shape, x.dtype), custom_call_api_version=1
    )
    return other(x) + 1


def write(name: str, function: Callable[..., Any], *shapes: tuple[int, ...]) -> None:
    """Lower `function` at these shapes and write its module."""
    lowered = jax.jit(function).lower(*(jnp.zeros(shape, jnp.float32) for shape in shapes))
    module = lowered.compiler_ir("hlo").as_serialized_hlo_module_proto()
    # The compiler notes this file's path; one of the same length keeps the lengths in the message.
    own = str(Path(__file__)).encode()
    (FOLDER / f"{name}.pb").write_bytes(module.replace(own, b"/" + b"x" * (len(own) - 1)))


if __name__ == "__main__":
    write("prefill", prefill, (128, 8), (8, 16), (3, 16, 4))
    write("decode", decode, (1, 8), (8, 16), (2, 16, 5, 7))
    write("loop", loop, (4, 8), (8, 8))
    write("no_products", no_products, (4, 8))
