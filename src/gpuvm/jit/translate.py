"""From a launch to callable code: discovers, chooses a translator, compiles, and keeps what was made."""

from __future__ import annotations

import bisect
import functools
import hashlib
import io
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from elftools.elf.elffile import ELFFile

from gpuvm.jit.cache import DiskCache, Entry
from gpuvm.jit.discover import Program, discover
from gpuvm.jit.emit import Shape
from gpuvm.jit.fault import runtime
from gpuvm.jit.flow import Unstructured
from gpuvm.jit.general import General
from gpuvm.jit.kernel import Frame, Mix, module_ir
from gpuvm.jit.launch import Launch
from gpuvm.jit.machine import Limits
from gpuvm.jit.native import Library, target
from gpuvm.jit.space import AccessError
from gpuvm.jit.structured import BarrierReduction, Structured

STACK_ENTRY_BYTES = 16
ON_CHIP_ENTRIES = 32
MAX_ENTRIES = 4096


@dataclass
class Facts:
    """What the executor must know of a translation, in a form that can be stored."""

    lanes: int
    groups: int
    state_bytes: int
    banks: list[tuple[int, int]]
    mixes: list[Mix]
    locks: bool

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "mixes": [astuple(mix) for mix in self.mixes]}

    @staticmethod
    def from_json(raw: dict[str, Any]) -> Facts:
        return Facts(
            raw["lanes"], raw["groups"], raw["state_bytes"], [(bank, top) for bank, top in raw["banks"]],
            [Mix(*mix) for mix in raw["mixes"]], raw["locks"],
        )  # fmt: skip


SURPRISE_S = 1e-3
"""A launch that takes longer, and much longer than expected, makes its kernel a surprising one."""


class Translation:
    """Code for one kernel specialised on a block shape and limits."""

    def __init__(self, library: Library, facts: Facts, seconds: float) -> None:
        self.library = library
        self.facts = facts
        self.address = library["kernel"]
        self.lanes = facts.lanes
        self.groups = facts.groups
        self.state_bytes = facts.state_bytes
        self.banks = dict(facts.banks)
        self.mixes: Sequence[Mix] = facts.mixes
        self.mix_table: npt.NDArray[np.int64] = np.array([astuple(mix)[1:] for mix in facts.mixes], np.int64)
        self.locks = facts.locks
        self._seconds = seconds
        self.block_s: float | None = None
        """Seconds that a block takes one thread, by the launches so far."""
        self.surprising = False
        """Whether a launch took far longer than the ones before let expect."""
        self._lines: tuple[list[int], list[int]] | None = None

    def took(self, seconds: float, threads: int, blocks: int) -> None:
        """Learn from a launch of `blocks` blocks that ran to its end."""
        each = seconds * threads / blocks
        if self.block_s is None:
            self.block_s = each
            return
        if seconds > SURPRISE_S and each > 8 * self.block_s:
            self.surprising = True
        self.block_s = min(self.block_s * 1.05, each)

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
    symbols: Any = elf.get_section_by_name(".symtab")
    symbol = symbols.get_symbol_by_name("kernel")[0]
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
        self._recent: dict[
            object, tuple[tuple[tuple[tuple[int, int], ...], tuple[bytes, ...], Translation], ...]
        ] = {}
        """By place: what was found there last, to be compared with the code that is there now."""
        self.disk = DiskCache(cache_dir)
        self.plan = Plan()
        """How to translate from now on (tests and experiments change it)."""
        machine = target()
        self._version = (source_version(), machine.version, machine.cpu, machine.features)

    def get(self, launch: Launch) -> Translation:
        """The translation for a launch.

        Raises
        ------
        AccessError
            If the entry is not mapped.
        """
        space, base = launch.space, launch.code_base
        limits = limits_of(launch)
        plan = self.plan
        place = (base, launch.entry, launch.block, limits, plan)
        for spans, code, made in self._recent.get(place, ()):
            try:
                if all(
                    space.read(base + start, end - start) == text
                    for (start, end), text in zip(spans, code, strict=True)
                ):
                    return made
            except AccessError:
                continue
        started = time.perf_counter()
        first = space.read(base + launch.entry, 4)
        disk_key = DiskCache.key(self._version, launch.entry, first, launch.block, limits, plan)
        found = self._stored(disk_key, launch, started)
        if found is not None:
            spans, code, got = found
        else:
            program = discover(lambda offset, size: space.read(base + offset, size), launch.entry)
            spans = tuple(program.spans)
            code = tuple(space.read(base + start, end - start) for start, end in spans)
            key = (launch.entry, spans, code, tuple(sorted(program.unreadable)), launch.block, limits, plan)
            with self._lock:
                known = self._made.get(key)
            if known is None:
                known, data = self._make(program, launch, limits, plan, started)
                if not program.unreadable:
                    entry = Entry({"spans": spans, "facts": known.facts.to_json()}, [*code, data])
                    self.disk.put(disk_key, entry)
                with self._lock:
                    known = self._made.setdefault(key, known)
            got = known
            if program.unreadable:
                return got
        with self._lock:
            if len(self._recent) > 512:
                self._recent.clear()
            before = self._recent.get(place, ())
            self._recent[place] = ((spans, code, got), *before[:3])
        return got

    def _stored(
        self, key: str, launch: Launch, started: float
    ) -> tuple[tuple[tuple[int, int], ...], tuple[bytes, ...], Translation] | None:
        """A translation from disk whose code is what is in memory now."""
        for entry in self.disk.find(key):
            spans = tuple((start, end) for start, end in entry.facts["spans"])
            *code, data = entry.parts
            try:
                base = launch.code_base
                if any(
                    launch.space.read(base + a, b - a) != text
                    for (a, b), text in zip(spans, code, strict=True)
                ):
                    continue
            except AccessError:
                continue
            library = target().load(data, ["kernel"], runtime().imports)
            facts = Facts.from_json(entry.facts["facts"])
            return spans, tuple(code), Translation(library, facts, time.perf_counter() - started)
        return None

    def _make(
        self, program: Program, launch: Launch, limits: Limits, plan: Plan, started: float
    ) -> tuple[Translation, bytes]:
        machine = target()
        text, frame = translate_program(program, launch.block, limits, plan)
        data = machine.compile(text)
        library = machine.load(data, ["kernel"], runtime().imports)
        facts = Facts(
            frame.shape.lanes, frame.shape.groups, frame.state_bytes, sorted(frame.banks.items()), frame.mixes,
            bool(program.names() & {"LDSLK", "LDLK"}),
        )  # fmt: skip
        return Translation(library, facts, time.perf_counter() - started), data


@dataclass(frozen=True)
class Plan:
    """Choices that are usually left to `translate_program`.

    Attributes
    ----------
    general : bool
        Use the general translator whatever the code looks like.
    lanes : int
        Lanes of a group: 32 is a warp, 1 a thread at a time; 0 chooses.
    """

    general: bool = False
    lanes: int = 0


def translate_program(
    program: Program, block: tuple[int, int, int], limits: Limits, plan: Plan
) -> tuple[str, Frame]:
    """The module of a program: structured if its control flow allows, else general."""
    machine = target()
    lanes = plan.lanes or 32
    try:
        if plan.general:
            raise Unstructured("as planned")
        shape = Shape(lanes, min(machine.unit, lanes), block)
        made = Structured(program, shape, limits, machine.avx512)
        em, frame = made.translate()
        if plan.lanes == 0 and made.prefers_threads():
            em, frame = Structured(program, Shape(1, 1, block), limits, machine.avx512).translate()
    except (Unstructured, BarrierReduction):
        shape = Shape(32, machine.unit, block)
        em, frame = General(program, shape, limits, machine.avx512).translate()
    return module_ir(machine, em, frame, inline=True), frame


@functools.cache
def source_version() -> str:
    """Digest of this package's own code: another version of it makes other translations."""
    folder = Path(__file__).parent
    whole = hashlib.sha256()
    for path in sorted([*folder.glob("*.py"), *(folder.parent / "isa").glob("*.py")]):
        whole.update(path.read_bytes())
    return whole.hexdigest()


def limits_of(launch: Launch) -> Limits:
    entries = min(max(launch.stack_size // STACK_ENTRY_BYTES, ON_CHIP_ENTRIES), MAX_ENTRIES)
    return Limits(
        registers=launch.registers,
        shared_window=launch.shared_window,
        local_window=launch.local_window,
        barriers=min(max(launch.barriers, 0), 16),
        stack_entries=entries,
        uniform_loads=launch.local_positive + launch.local_negative == 0,
    )
