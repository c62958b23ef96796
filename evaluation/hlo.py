"""Multiply-accumulates of a compiled graph, read from its HLO protobuf.

The few fields that counting needs are declared here, by the numbers of XLA's public hlo.proto and
xla_data.proto, so that neither XLA nor the Neuron SDK is needed to read a graph. Whatever cannot be
counted is an error: the challenge's driver takes an unreadable custom call for zero.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

NKI_TARGET = "AwsNeuronCustomNativeKernel"
"""Target of the custom call that holds an NKI kernel."""

UNNAMED = "unnamed"
_PACKAGE = "hlo_subset"
_FIELDS = {
    "Shape": (("dimensions", 3, "int64*"),),
    "DotDimensionNumbers": (
        ("lhs_contracting_dimensions", 1, "int64*"),
        ("rhs_contracting_dimensions", 2, "int64*"),
        ("lhs_batch_dimensions", 3, "int64*"),
        ("rhs_batch_dimensions", 4, "int64*"),
    ),
    "Instruction": (
        ("name", 1, "string"),
        ("opcode", 2, "string"),
        ("shape", 3, "Shape"),
        ("custom_call_target", 28, "string"),
        ("dot_dimension_numbers", 30, "DotDimensionNumbers"),
        ("id", 35, "int64"),
        ("operand_ids", 36, "int64*"),
        ("backend_config", 43, "bytes"),
    ),
    "Computation": (("name", 1, "string"), ("instructions", 2, "Instruction*")),
    "Module": (
        ("name", 1, "string"),
        ("entry_computation_name", 2, "string"),
        ("computations", 3, "Computation*"),
    ),
}
"""Message -> (field, number, type); a star marks a repeated field."""


class HloError(ValueError):
    """A file that is no HLO module, or one whose multiply-accumulates cannot be counted."""


@dataclass(frozen=True)
class Call:
    """One NKI kernel in a graph: the name that it states, and its multiply-accumulates.

    None where it states none, as in the documentation's sample of NKI 0.2.
    """

    kernel: str
    macs: int | None


@dataclass(frozen=True)
class GraphMacs:
    """What one graph computes per execution, on one rank.

    `loops` counts while loops: their bodies are counted once, however often they run.
    """

    dot_macs: int
    calls: tuple[Call, ...]
    loops: int

    @property
    def nki_macs(self) -> int:
        """Multiply-accumulates that kernels state for themselves."""
        return sum(call.macs or 0 for call in self.calls)

    @property
    def uncounted_calls(self) -> int:
        """Kernels that state none, which the challenge takes for 0."""
        return sum(call.macs is None for call in self.calls)

    @property
    def total_macs(self) -> int:
        """Those of dots and of kernels together."""
        return self.dot_macs + self.nki_macs


def count_file(path: Path | str) -> GraphMacs:
    """Return the multiply-accumulates of the HLO module in a file; HloError names the file."""
    try:
        return count(Path(path).read_bytes())
    except OSError as error:
        raise HloError(f"{path}: cannot be read: {error.strerror or error}") from error
    except HloError as error:
        raise HloError(f"{path}: {error}") from error


def count(data: bytes) -> GraphMacs:
    """Return the multiply-accumulates of a serialised HLO module.

    A dot has batch x M x K x N of them, by the shapes of its operands; an NKI kernel states its own
    as "mac_count" in its backend configuration (JSON in base64), or is told as one that does not.
    Every computation of the module is counted once, as the challenge does. HloError for anything
    malformed, and for a module without instructions.
    """
    module = _parse(data)
    instructions = [i for computation in module.computations for i in computation.instructions]
    if not instructions:
        raise HloError("an HLO module without instructions")
    dots = sum(macs for computation in module.computations for macs in _dots(computation))
    calls = tuple(
        _call(instruction)
        for instruction in instructions
        if instruction.opcode == "custom-call" and instruction.custom_call_target == NKI_TARGET
    )
    return GraphMacs(dots, calls, sum(i.opcode == "while" for i in instructions))


def _parse(data: bytes) -> Any:
    from google.protobuf.message import DecodeError

    module = _message("Module")()
    try:
        module.ParseFromString(data)
    except DecodeError as error:
        raise HloError(f"not an HLO module, perhaps truncated: {error}") from error
    names = [computation.name for computation in module.computations]
    # A file that was cut between two fields can still be parsed; the entry computation comes last.
    if not module.entry_computation_name or module.entry_computation_name not in names:
        raise HloError(
            "not an HLO module, perhaps truncated: "
            f"its entry computation {module.entry_computation_name!r} is not in it"
        )
    return module


def _dots(computation: Any) -> Iterator[int]:
    """Yield the multiply-accumulates of each dot of a computation."""
    by_id = {instruction.id: instruction for instruction in computation.instructions}
    for instruction in computation.instructions:
        if instruction.opcode != "dot":
            continue
        missing = [i for i in instruction.operand_ids if i not in by_id]
        if len(instruction.operand_ids) < 2 or missing:
            found = f"operand {missing[0]} is not in its computation" if missing else "too few"
            raise HloError(f"dot {instruction.name!r}: two operands are needed: {found}")
        left, right = (by_id[i].shape.dimensions for i in instruction.operand_ids[:2])
        yield _dot_macs(instruction, list(left), list(right))


def _dot_macs(instruction: Any, left: list[int], right: list[int]) -> int:
    """Return batch x M x K x N of one dot with operands of these dimensions."""
    numbers = instruction.dot_dimension_numbers
    contracted = list(numbers.rhs_contracting_dimensions)
    batched = list(numbers.rhs_batch_dimensions)
    pairs = (
        *zip(numbers.lhs_contracting_dimensions, contracted, strict=False),
        *zip(numbers.lhs_batch_dimensions, batched, strict=False),
    )
    counts_agree = len(numbers.lhs_contracting_dimensions) == len(contracted) and len(
        numbers.lhs_batch_dimensions
    ) == len(batched)
    inside = all(0 <= a < len(left) and 0 <= b < len(right) for a, b in pairs)
    if not (counts_agree and inside and all(left[a] == right[b] for a, b in pairs)):
        raise HloError(
            f"dot {instruction.name!r}: its dimension numbers do not fit operands of {left} and "
            f"{right}"
        )
    rest = [size for axis, size in enumerate(right) if axis not in (*contracted, *batched)]
    return prod(left) * prod(rest)


def _call(instruction: Any) -> Call:
    """Return what an NKI custom call states of itself."""
    where = f"NKI kernel {instruction.name!r}"
    try:
        encoded = b"".join(instruction.backend_config.split())  # it may be broken into lines
        config = json.loads(base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise HloError(
            f"{where}: its backend configuration is not JSON in base64: {error}"
        ) from error
    if not isinstance(config, dict):
        raise HloError(f"{where}: its backend configuration is no JSON object")
    name = config.get("func_name")
    kernel = name if isinstance(name, str) and name else UNNAMED
    if "mac_count" not in config:
        return Call(kernel, None)
    macs: Any = config["mac_count"]
    # The challenge takes int() of it, which accepts digits in a string and 1e6, too.
    digits = isinstance(macs, str) and macs.strip().isdecimal()
    if digits or (isinstance(macs, float) and macs.is_integer()):
        macs = int(macs)
    if isinstance(macs, bool) or not isinstance(macs, int) or macs < 0:
        raise HloError(f"{where}: mac_count is {macs!r}; expected a whole number, 0 or more")
    return Call(kernel, macs)


@cache
def _message(name: str) -> Any:
    """Return the class of a message, from descriptors built here."""
    try:
        from google.protobuf import descriptor_pool, message_factory
    except ModuleNotFoundError as error:
        raise HloError(
            "reading HLO needs the package protobuf; it is part of the Neuron SDK's environments "
            "and of this project's (./run setup)"
        ) from error
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_schema())
    descriptor = pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(pool).GetPrototype(descriptor)  # protobuf before 4.22


def _schema() -> Any:
    """Return `_FIELDS` as a file descriptor; its syntax, proto2, reads the bytes of proto3."""
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

    scalars = {
        "int64": FieldDescriptorProto.TYPE_INT64,
        "string": FieldDescriptorProto.TYPE_STRING,
        "bytes": FieldDescriptorProto.TYPE_BYTES,
    }
    file = FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE)
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for name, number, declared in fields:
            kind = declared.rstrip("*")
            field = described.field.add(name=name, number=number)
            repeated = declared.endswith("*")
            label = "LABEL_REPEATED" if repeated else "LABEL_OPTIONAL"
            field.label = getattr(FieldDescriptorProto, label)
            field.type = scalars.get(kind, FieldDescriptorProto.TYPE_MESSAGE)
            if kind not in scalars:
                field.type_name = f".{_PACKAGE}.{kind}"
    return file
