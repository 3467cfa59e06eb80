"""What kernels ask of their driver: printf, assert and the heap of malloc (compiler/services.cu is the kernel's
side). Each context that runs a module with `gpuvm_services` has one record area in host memory and one heap.
"""

from __future__ import annotations

import re
import struct
import sys
from typing import TYPE_CHECKING, Any

from gpuvm.guest.cuda.types import NAMES
from gpuvm.guest.driver.host import HostBuffer

if TYPE_CHECKING:
    from gpuvm.guest.cuda.context import Context

SYMBOL = "gpuvm_services"
PRINT, ASSERTION = 1, 2
FIFO_HEADER = struct.Struct("<QQ")
RECORD = struct.Struct("<II")
PLACE = struct.Struct("<7I4x")
HEAP_LISTS = 112
HEAP_HEADER = 16 + 8 * HEAP_LISTS
LARGEST_FIELD = 4096
"""Widths and precisions of printf are cut to it: a kernel's format must not take the machine's memory."""
NO_TEXT = (1 << 64) - 1
_CONVERSION = re.compile(rb"%([-+ #0]*)([0-9]+|\*)?(?:\.([0-9]+|\*)?)?([hlLjzt]*)(.?)", re.DOTALL)

CUlimit: Any = NAMES["CUlimit"]


class Services:
    """The record area and the heap of one context.

    Attributes
    ----------
    address : bytes
        What belongs into the symbol: the two addresses.
    assertion : str
        The last failed assertion; "" if there was none.
    """

    def __init__(self, context: Context) -> None:
        limits = context.limits
        driver = context.gpu.driver
        size = max(limits[CUlimit.CU_LIMIT_PRINTF_FIFO_SIZE], 4096)
        self.assertion = ""
        self._fifo = HostBuffer(driver.machine, size + FIFO_HEADER.size)
        try:
            with driver.lock:
                context.gpu.space.map_host(self._fifo)
            heap_size = max(limits[CUlimit.CU_LIMIT_MALLOC_HEAP_SIZE], 4096)
            heap = context.allocate(heap_size)
        except Exception:
            self._fifo.free()
            raise
        heap.module = True
        self._view = self._fifo.view()
        FIFO_HEADER.pack_into(self._view, 0, 0, self._fifo.size - FIFO_HEADER.size)
        header = struct.pack(f"<QQ{HEAP_LISTS}Q", HEAP_HEADER, heap_size, *[0] * HEAP_LISTS)
        context.write(heap.address, header)
        self.address = struct.pack("<QQ", self._fifo.gpu_address, heap.address)

    def flush(self) -> None:
        """Print what the kernels left; none may be running."""
        used, capacity = FIFO_HEADER.unpack_from(self._view)
        if not used:
            return
        area = bytes(self._view[FIFO_HEADER.size : FIFO_HEADER.size + min(used, capacity)])
        FIFO_HEADER.pack_into(self._view, 0, 0, capacity)
        self._view[FIFO_HEADER.size : FIFO_HEADER.size + len(area)] = bytes(len(area))
        at = 0
        while at + RECORD.size <= len(area):
            size, kind = RECORD.unpack_from(area, at)
            if size < RECORD.size or at + size > len(area):
                # The first record that found no room, and all that came after it.
                break
            body = area[at + RECORD.size : at + size]
            if kind == PRINT:
                sys.stdout.write(formatted(body).decode(errors="replace"))
            elif kind == ASSERTION:
                self.assertion = assertion(body)
            at += size
        sys.stdout.flush()

    def close(self) -> None:
        self._view.release()
        self._fifo.free()


def _text(body: bytes, at: int) -> tuple[bytes, int]:
    """The text at an offset, and the offset behind it."""
    if at + 8 > len(body):
        return b"", len(body)
    length = int.from_bytes(body[at : at + 8], "little")
    if length == NO_TEXT:
        return b"(null)", at + 8
    return body[at + 8 : at + 8 + length], at + 8 + (length + 7 & ~7)


def assertion(body: bytes) -> str:
    """The words in which CUDA reports a failed assertion."""
    if len(body) < PLACE.size:
        return "Assertion failed."
    line, bx, by, bz, tx, ty, tz = PLACE.unpack_from(body)
    message, at = _text(body, PLACE.size)
    file, at = _text(body, at)
    function, _ = _text(body, at)
    message_text, file_text, function_text = (t.decode(errors="replace") for t in (message, file, function))
    return (
        f"{file_text}:{line}: {function_text}: block: [{bx},{by},{bz}], thread: [{tx},{ty},{tz}] "
        f"Assertion `{message_text}` failed."
    )


def formatted(body: bytes) -> bytes:
    """The output of one printf, by the rules of C, from its record."""
    template, at = _text(body, 0)
    out: list[bytes] = []
    end = 0

    def word() -> int:
        nonlocal at
        value = int.from_bytes(body[at : at + 8], "little")
        at += 8
        return value

    for match in _CONVERSION.finditer(template):
        out.append(template[end : match.start()])
        end = match.end()
        flags, width, precision, length, kind = match.groups()
        if kind == b"%":
            out.append(b"%")
            continue
        spec = b"%" + flags
        spec += _field(_signed(word(), 4) if width == b"*" else width)
        if b"." in match[0]:
            spec += b"." + _field(_signed(word(), 4) if precision == b"*" else precision)
        if not kind:
            out.append(match[0])
        elif kind == b"s":
            text, at = _text(body, at)
            out.append((spec + b"s") % text)
        else:
            out.append(_value(spec, kind, length, word()))
    out.append(template[end:])
    return b"".join(out)


def _field(value: bytes | int | None) -> bytes:
    """A width or precision as printf's format has it."""
    if value is None:
        return b""
    number = int(value)
    return (b"-" if number < 0 else b"") + str(min(abs(number), LARGEST_FIELD)).encode()


def _signed(value: int, size: int) -> int:
    value &= (1 << 8 * size) - 1
    return value - (1 << 8 * size) if value >> 8 * size - 1 else value


def _value(spec: bytes, kind: bytes, length: bytes, value: int) -> bytes:
    wide = any(c in length for c in (b"l", b"j", b"z", b"t"))
    size = 8 if wide else 1 if length == b"hh" else 2 if length == b"h" else 4
    if kind in b"di":
        return (spec + b"d") % _signed(value, size)
    if kind == b"o" and b"#" in spec:
        # Python's own prefix is 0o.
        return (spec.replace(b"#", b"").partition(b".")[0] + b"s") % (b"0%o" % (value & (1 << 8 * size) - 1))
    if kind in b"uxXo":
        return (spec + (b"d" if kind == b"u" else kind)) % (value & (1 << 8 * size) - 1)
    if kind == b"c":
        return (spec + b"c") % (value & 0xFF)
    if kind == b"p":
        return (spec + b"s") % hex(value).encode()
    if kind in b"eEfFgGaA":
        number: float = struct.unpack("<d", value.to_bytes(8, "little"))[0]
        if kind in b"aA":
            text = number.hex().encode()
            return (spec.partition(b".")[0] + b"s") % (text.upper() if kind == b"A" else text)
        return (spec + kind) % number
    # %n stores nothing on a GPU; anything else is no conversion.
    return b"" if kind == b"n" else spec + length + kind
