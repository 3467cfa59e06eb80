"""An operation gives the same whether its operands come from memory, from parameters (the constant bank) or as
constants: whatever the machine code's operand slots take, the compiler finds a way.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import pytest
from device import Device
from ptx_text import HEADER

WORD, LONG, FLOAT, DOUBLE = 0x8765_4321, 0xFEDC_BA98_7654_3210, -1.23456789, 1.2345678901234567
SOURCES = {"%r1": "u32", "%rd1": "u64", "%f1": "f32", "%d1": "f64"}
CONSTANTS = {
    "%r1": str(WORD),
    "%rd1": hex(LONG),
    "%f1": "0f" + struct.pack(">f", FLOAT).hex().upper(),
    "%d1": "0d" + struct.pack(">d", DOUBLE).hex().upper(),
}
REGISTERS = {"u32": "%r", "u64": "%rd", "f32": "%f", "f64": "%d"}


def operations() -> Iterator[tuple[str, str]]:
    """Instructions and the type of their result, which goes to register 2 of that type."""
    integers = {"s32": "%r", "u32": "%r", "s64": "%rd", "u64": "%rd"}
    for kind, r in integers.items():
        result = "u" + kind[1:]
        for name in ("add", "sub", "mul.lo", "mul.hi", "div", "rem", "min", "max"):
            yield f"{name}.{kind} {r}2, {r}1, {r}1;", result
        yield f"mad.lo.{kind} {r}2, {r}1, {r}1, {r}1;", result
        yield f"shr.{kind} {r}2, {r}1, %r1;", result
        yield f"bfe.{kind} {r}2, {r}1, 3, %r1;", result
        yield f"set.le.u32.{kind} %r2, {r}1, {r}1;", "u32"
        yield f"slct.{kind}.f32 {r}2, {r}1, {r}1, %f1;", result
        yield f"bfind.{kind} %r2, {r}1;", "u32"
        for mode in ("rn", "rz", "rm", "rp"):
            yield f"cvt.{mode}.f32.{kind} %f2, {r}1;", "f32"
            yield f"cvt.{mode}.f64.{kind} %d2, {r}1;", "f64"
        for mode in ("rni", "rzi", "rmi", "rpi"):
            yield f"cvt.{mode}.{kind}.f32 {r}2, %f1;", result
            yield f"cvt.{mode}.{kind}.f64 {r}2, %d1;", result
    for kind, r in {"b32": "%r", "b64": "%rd"}.items():
        result = "u" + kind[1:]
        for name in ("and", "or", "xor"):
            yield f"{name}.{kind} {r}2, {r}1, {r}1;", result
        for name in ("not", "cnot", "brev"):
            yield f"{name}.{kind} {r}2, {r}1;", result
        for name in ("popc", "clz"):
            yield f"{name}.{kind} %r2, {r}1;", "u32"
        yield f"shl.{kind} {r}2, {r}1, %r1;", result
        yield f"bfi.{kind} {r}2, {r}1, {r}1, 5, %r1;", result
    yield "mul.wide.s32 %rd2, %r1, %r1;", "u64"
    yield "mad.wide.u32 %rd2, %r1, %r1, %rd1;", "u64"
    yield "prmt.b32 %r2, %r1, %r1, %r1;", "u32"
    yield "cvt.rn.f32.f64 %f2, %d1;", "f32"
    yield "cvt.f64.f32 %d2, %f1;", "f64"
    for kind, r in {"f32": "%f", "f64": "%d"}.items():
        for name in ("add.rn", "sub.rz", "mul.rp", "min", "max", "div.rn", "copysign"):
            yield f"{name}.{kind} {r}2, {r}1, {r}1;", kind
        for name in ("neg", "abs", "rcp.rn"):
            yield f"{name}.{kind} {r}2, {r}1;", kind
        yield f"fma.rn.{kind} {r}2, {r}1, {r}1, {r}1;", kind
        yield f"set.lt.u32.{kind} %r2, {r}1, {r}1;", "u32"
        yield f"cvt.rmi.{kind}.{kind} {r}2, {r}1;", kind


OPERATIONS = list(operations())


def kernel(name: str, place: str) -> str:
    lines = [
        f".visible .entry {name} (.param .u64 out, .param .u64 in, .param .u32 r, .param .u64 rd, .param .f32 f, "
        ".param .f64 d) {",
        ".reg .b64 %o<4>; .reg .b32 %r<4>; .reg .b64 %rd<4>; .reg .f32 %f<4>; .reg .f64 %d<4>;",
        "ld.param.u64 %o1, [out]; ld.param.u64 %o2, [in];",
    ]
    for at, (register, kind) in enumerate(SOURCES.items()):
        source = f"ld.param.{kind} {register}, [{register[1:-1]}];"
        lines.append(f"ld.global.{kind} {register}, [%o2+{8 * at}];" if place == "memory" else source)
    for number, (text, result) in enumerate(OPERATIONS):
        if place == "constant":
            operation, operands = text.rstrip(";").split(" ", 1)
            first, *rest = operands.split(", ")
            text = f"{operation} {', '.join([first, *(CONSTANTS.get(each, each) for each in rest)])};"
        lines.append(f"{text} st.global.{result} [%o1+{8 * number}], {REGISTERS[result]}2;")
    return "\n".join([*lines, "ret; }"])


@pytest.mark.parametrize("place", ["parameter", "constant"])
def test_operands_may_come_from_anywhere(device: Device, place: str) -> None:
    module = device.load(HEADER + kernel("want", "memory") + kernel("got", place))
    size = 8 * len(OPERATIONS)
    inputs = device.upload(np.frombuffer(struct.pack("<I4xQf4xd", WORD, LONG, FLOAT, DOUBLE), np.uint8))
    results = []
    for name in ("want", "got"):
        out = device.upload(np.full(size, 0xAA, np.uint8))
        arguments = (np.uint32(WORD), np.uint64(LONG), np.float32(FLOAT), np.float64(DOUBLE))
        assert module.launch(name, 1, 1, out, inputs, *arguments).error is None
        results.append(device.download(out, np.uint64, len(OPERATIONS)))
    for (text, _), want, got in zip(OPERATIONS, *results, strict=True):
        assert want == got, f"{text} {want:#x} {got:#x}"
