"""From a launch to callable code: discovers, chooses a translator, compiles, and keeps what was made."""

from __future__ import annotations

import bisect
import io
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
import numpy.typing as npt
from elftools.elf.elffile import ELFFile

from gpuvm.jit.discover import Program, discover
from gpuvm.jit.emit import Shape
from gpuvm.jit.fault import runtime
from gpuvm.jit.general import General
from gpuvm.jit.kernel import Frame, Mix, module_ir
from gpuvm.jit.launch import Launch
from gpuvm.jit.machine import Limits
from gpuvm.jit.flow import Unstructured
from gpuvm.jit.native import Library, target
from gpuvm.jit.structured import BarrierReduction, Structured

STACK_ENTRY_BYTES = 16
ON_CHIP_ENTRIES = 32
MAX_ENTRIES = 4096


class Translation:
    """Code for one kernel specialised on a block shape and limits."""

    def __init__(self, library: Library, frame: Frame, locks: bool, seconds: float) -> None:
        self.library = library
        self.address = library["kernel"]
        self.lanes = frame.shape.lanes
        self.groups = frame.shape.groups
        self.state_bytes = frame.state_bytes
        self.banks = dict(frame.banks)
        self.mixes: Sequence[Mix] = frame.mixes
        self.mix_table: npt.NDArray[np.int64] = np.array([astuple(mix)[1:] for mix in frame.mixes], np.int64)
        self.locks = locks
        self._seconds = seconds
        self._lines: tuple[list[int], list[int]] | None = None

    def seconds(self) -> float:
        """Time spent compiling; told once."""
        got, self._seconds = self._seconds, 0.0
        return got

    def locate(self, ip: int) -> int | None:
        """Code offset of the instruction that host address `ip` belongs to, None if it is not this code's."""
        if self._lines is None:
            self._lines = line_table(self.library.code, self.address)
        addresses, pcs = self._lines
        where = bisect.bisect_right(addresses, ip) - 1
        if where < 0 or ip > addresses[-1]:
            return None
        # Rows without a line belong to merged or made-up code: the row before is the nearest.
        while where > 0 and pcs[where] < 0:
            where -= 1
        return pcs[where] if pcs[where] >= 0 else None


def line_table(code: bytes, kernel: int) -> tuple[list[int], list[int]]:
    """Sorted host addresses and their code offsets (-1: none) from an object file's line table."""
    elf = ELFFile(io.BytesIO(code))
    symbol = elf.get_section_by_name(".symtab").get_symbol_by_name("kernel")[0]
    text = kernel - int(symbol["st_value"])
    rows: list[tuple[int, int]] = []
    dwarf = elf.get_dwarf_info()
    for unit in dwarf.iter_CUs():
        program = dwarf.line_program_for_CU(unit)
        for entry in program.get_entries() if program is not None else ():
            if entry.state is not None:
                rows.append((text + int(entry.state.address), int(entry.state.line) - 1))
    rows.sort(key=lambda row: row[0])
    return [address for address, _ in rows], [pc for _, pc in rows]


class Translator:
    """Makes and keeps translations.

    Parameters
    ----------
    cache_dir : Path, optional
        Directory of the disk cache.
    """

    def __init__(self, cache_dir: Path | str | None = None) -> None:
        self._lock = threading.Lock()
        self._made: dict[object, Translation] = {}
        self._recent: dict[object, tuple[tuple[tuple[tuple[int, int], ...], tuple[bytes, ...], Translation], ...]] = {}
        """By place: what was found there last, to be compared with the code that is there now."""
        self.cache_dir = cache_dir

    def get(self, launch: Launch) -> Translation:
        """The translation for a launch.

        Raises
        ------
        AccessError
            If the entry is not mapped.
        """
        space, base = launch.space, launch.code_base
        limits = limits_of(launch)
        place = (base, launch.entry, launch.block, limits)
        for spans, code, made in self._recent.get(place, ()):
            try:
                if all(space.read(base + start, end - start) == text for (start, end), text in zip(spans, code, strict=True)):
                    return made
            except AccessError:
                continue
        space.read(base + launch.entry, 4)
        started = time.perf_counter()
        program = discover(lambda offset, size: space.read(base + offset, size), launch.entry)
        code = tuple(space.read(base + start, end - start) for start, end in program.spans)
        key = (launch.entry, tuple(program.spans), code, tuple(sorted(program.unreadable)), launch.block, limits)
        with self._lock:
            got = self._made.get(key)
        if got is None:
            got = self._make(program, launch, limits, started)
            with self._lock:
                got = self._made.setdefault(key, got)
        if not program.unreadable:
            with self._lock:
                if len(self._recent) > 512:
                    self._recent.clear()
                known = self._recent.get(place, ())
                self._recent[place] = ((tuple(program.spans), code, got), *known[:3])
        return got

    def _make(self, program: Program, launch: Launch, limits: Limits, started: float) -> Translation:
        machine = target()
        lanes = int(os.environ.get("GPUVM_LANES", "32"))
        shape = Shape(lanes, min(machine.unit, lanes), launch.block)
        try:
            if os.environ.get("GPUVM_JIT") == "general":
                raise Unstructured
            em, frame = Structured(program, shape, limits, machine.avx512).translate()
        except (Unstructured, BarrierReduction):
            em, frame = General(program, shape, limits, machine.avx512).translate()
        text = module_ir(machine, em, frame, inline=True)
        if os.environ.get("GPUVM_DUMP_IR"):
            Path(os.environ["GPUVM_DUMP_IR"]).write_text(text)
        library = machine.load(machine.compile(text), ["kernel"], imports(text))
        locks = bool(program.names() & {"LDSLK", "LDLK"})
        return Translation(library, frame, locks, time.perf_counter() - started)


def imports(text: str) -> dict[str, int]:
    """Helpers that a module calls."""
    return {name: address for name, address in runtime().imports.items() if f"@{name}(" in text or f"@{name}," in text}


def limits_of(launch: Launch) -> Limits:
    entries = min(max(launch.stack_size // STACK_ENTRY_BYTES, ON_CHIP_ENTRIES), MAX_ENTRIES)
    return Limits(
        registers=launch.registers,
        shared_window=launch.shared_window,
        local_window=launch.local_window,
        barriers=min(max(launch.barriers, 0), 16),
        stack_entries=entries,
        uniform_loads=launch.local_positive + launch.local_negative == 0 or os.environ.get('GPUVM_LANES')=='1',
    )
