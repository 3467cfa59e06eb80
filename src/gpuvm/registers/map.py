"""The register map of a chip: blocks are placed, overlaps refused, then frozen into look-ups by offset."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gpuvm.registers.declare import Block, DeclarationError, Register

Reader = Callable[[], int]
Writer = Callable[[int], None]


class Trace(Protocol):
    """Who hears every access while a trace is on."""

    def __call__(self, name: str, offset: int, value: int, write: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Window:
    """A range whose accesses go to handlers."""

    base: int
    end: int
    name: str
    reader: Callable[[int], int]
    writer: Callable[[int, int], None] | None


class RegisterFile:
    """The words behind a register map, and what happens when they are accessed.

    Parameters
    ----------
    size : int
        Bytes of the address space (16 MiB for BAR0). Memory is taken as it is touched.

    Notes
    -----
    Offsets are bytes, multiples of 4. What is neither declared nor in a scratch range reads 0 and drops
    writes; such accesses are counted in `unknown_reads` and `unknown_writes`.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.words = memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)).cast("I")
        self._open = memoryview(mmap.mmap(-1, size // 4, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        """Per word: 0 nothing there, 1 keeps what is written, 2 declared and not plain, 3 in a window."""
        self._windows: list[Window] = []
        self._readers: dict[int, Reader] = {}
        self._writers: dict[int, Writer] = {}
        self._owners: dict[int, tuple[Block, Register, int]] = {}
        self._blocks: list[Block] = []
        self._offsets: dict[tuple[str, str], tuple[int, ...]] = {}
        self.unknown_reads = 0
        self.unknown_writes = 0
        self.read: Callable[[int], int] = self._read
        self.write: Callable[[int, int], None] = self._write

    # Building

    def place(self, block: Block, engine: object | None = None) -> None:
        """Place a block; methods `read_<register>` and `write_<register>` of `engine` become its handlers.

        A read handler gives the value in place of the stored word; a write handler is called with the raw
        value after the word was stored as its access kinds say. Handlers of arrays take the index first.

        Raises
        ------
        DeclarationError
            If a word already belongs to another register.
        """
        self._blocks.append(block)
        by_name: dict[str, list[int]] = {}
        for offset, register, index in block.places():
            if offset + 4 > self.size:
                raise DeclarationError(
                    f"{block.name}.{register.name} must lie below {self.size:#x}, got {offset:#x}"
                )
            if offset in self._owners:
                other, taken, _ = self._owners[offset]
                raise DeclarationError(
                    f"{block.name}.{register.name} must not overlap {other.name}.{taken.name}, "
                    f"both are at {offset:#x}"
                )
            self._owners[offset] = (block, register, index)
            by_name.setdefault(register.name, []).append(offset)
            self._wire(offset, block, register, index, engine)
        for name, offsets in by_name.items():
            self._offsets[block.name, name] = tuple(offsets)
        for instance in range(block.count):
            start = block.base + instance * block.stride
            for area in block.scratch:
                first, last = (start + area.first) // 4, (start + area.last) // 4
                for word in range(first, last + 1):
                    if not self._open[word]:
                        self._open[word] = 1

    def _wire(self, offset: int, block: Block, register: Register, index: int, engine: object | None) -> None:
        read_mask, write_mask, clear_mask = register.masks()
        words, word = self.words, offset // 4
        suffix = register.name.lower()
        is_array = block.count * register.count > 1
        reader: Callable[..., int] | None = getattr(engine, f"read_{suffix}", None)
        hook: Callable[..., None] | None = getattr(engine, f"write_{suffix}", None)
        if reader is not None:
            self._readers[offset] = (lambda f=reader, i=index: f(i)) if is_array else reader  # type: ignore[misc]
        elif read_mask != 0xFFFFFFFF:
            self._readers[offset] = lambda: words[word] & read_mask
        if hook is None and write_mask == 0xFFFFFFFF and not clear_mask:
            self._open[word] = 1
            return
        self._open[word] = 2
        keep = ~write_mask & 0xFFFFFFFF
        if hook is None:

            def store(value: int) -> None:
                words[word] = ((words[word] & keep) | (value & write_mask)) & ~(value & clear_mask)

            self._writers[offset] = store
            return
        call: Callable[..., None] = hook

        def store_and_call(value: int) -> None:
            words[word] = ((words[word] & keep) | (value & write_mask)) & ~(value & clear_mask)
            call(index, value) if is_array else call(value)

        self._writers[offset] = store_and_call

    def window(
        self,
        base: int,
        size: int,
        name: str,
        reader: Callable[[int], int],
        writer: Callable[[int, int], None] | None,
    ) -> None:
        """Give a range to handlers that take the offset in it; without `writer`, writes are dropped.

        Raises
        ------
        DeclarationError
            If a register lies in the range.
        """
        for offset, (block, register, _) in self._owners.items():
            if base <= offset < base + size:
                raise DeclarationError(
                    f"window {name} must not overlap {block.name}.{register.name}, which is at {offset:#x}"
                )
        self._windows.append(Window(base, base + size, name, reader, writer))
        self._open[base // 4 : (base + size) // 4] = b"\3" * (size // 4)

    def freeze(self) -> None:
        """Set every register to its reset value."""
        for block in self._blocks:
            self.reset(block)

    # Access

    def _read(self, offset: int) -> int:
        reader = self._readers.get(offset)
        if reader is not None:
            return reader()
        kind = self._open[offset >> 2]
        if kind == 1:
            return self.words[offset >> 2]
        if kind == 3:
            found = self._window(offset)
            return found.reader(offset - found.base)
        if not kind:
            self.unknown_reads += 1
        return self.words[offset >> 2]

    def _write(self, offset: int, value: int) -> None:
        writer = self._writers.get(offset)
        if writer is not None:
            writer(value)
            return
        kind = self._open[offset >> 2]
        if kind == 1:
            self.words[offset >> 2] = value
        elif kind == 3:
            found = self._window(offset)
            if found.writer is not None:
                found.writer(offset - found.base, value)
        else:
            self.unknown_writes += 1

    def plain(self, offset: int) -> bool:
        """Whether a write to this offset does nothing but keep the value."""
        return self._open[offset >> 2] == 1

    def _window(self, offset: int) -> Window:
        return next(each for each in self._windows if each.base <= offset < each.end)

    def trace(self, listener: Trace | None) -> None:
        """Report every access to `listener`; None switches the trace off, and then it costs nothing."""
        if listener is None:
            self.read, self.write = self._read, self._write
            return
        told = listener

        def read(offset: int) -> int:
            value = self._read(offset)
            told(self.name(offset), offset, value, False)
            return value

        def write(offset: int, value: int) -> None:
            told(self.name(offset), offset, value, True)
            self._write(offset, value)

        self.read, self.write = read, write

    # By name

    def offset(self, block: str, register: str, index: int = 0) -> int:
        """Byte offset of a register (KeyError if it is not declared)."""
        return self._offsets[block, register][index]

    def name(self, offset: int) -> str:
        """Name of what lies at `offset`, as rnndb spells it."""
        owner = self._owners.get(offset & ~3)
        if owner is not None:
            block, register, index = owner
            many = block.count * register.count > 1
            return f"{block.name}.{register.name}[{index}]" if many else f"{block.name}.{register.name}"
        for window in self._windows:
            if window.base <= offset < window.end:
                return f"{window.name}+{offset - window.base:#x}"
        for block in self._blocks:
            if block.base <= offset < block.base + block.stride * (block.count - 1) + block.size:
                return f"{block.name}+{offset - block.base:#x}"
        return f"{offset:#08x}"

    def reset(self, block: Block) -> None:
        """Give the registers of a block their reset values and clear its scratch words."""
        for instance in range(block.count):
            start = block.base + instance * block.stride
            for area in block.scratch:
                words = np.frombuffer(self.words, np.uint32)[
                    (start + area.first) // 4 : (start + area.last) // 4 + 1
                ]
                if words.any():
                    words[:] = 0
        for offset, register, _ in block.places():
            self.words[offset // 4] = register.reset

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks in the order in which they were placed."""
        return iter(self._blocks)
