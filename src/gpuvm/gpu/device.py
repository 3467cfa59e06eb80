"""One GF100 as a PCI function: places the engines, dispatches accesses to the BARs, delivers interrupts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gpuvm.gpu import pmc as pmc_bits
from gpuvm.gpu.apertures import PRAMIN_BASE, PRAMIN_SIZE, BarAperture, Pramin
from gpuvm.gpu.board import Board
from gpuvm.gpu.channel import USERD_GP_PUT, Channel, Stop
from gpuvm.gpu.classes import BY_ENGINE
from gpuvm.gpu.classes.method import ClassObject, DataError
from gpuvm.gpu.counters import Counters
from gpuvm.gpu.ctxctl import Ctxctl, Gpccs
from gpuvm.gpu.engine import Engine
from gpuvm.gpu.guard import Guard
from gpuvm.gpu.mmu import Mmu
from gpuvm.gpu.paging import MmuFault
from gpuvm.gpu.pbus import Pbus
from gpuvm.gpu.pcopy import Pcopy
from gpuvm.gpu.pfb import Pfb
from gpuvm.gpu.pfifo import CHANNELS, Pfifo, Psubfifo
from gpuvm.gpu.pgraph import Executor, Pgraph
from gpuvm.gpu.physical import PhysicalMemory
from gpuvm.gpu.pmc import Pmc
from gpuvm.gpu.pmu import Pmu
from gpuvm.gpu.profile import QUADRO_6000, Profile
from gpuvm.gpu.ptimer import Ptimer
from gpuvm.gpu.pusher import UNIT_PCOPY0
from gpuvm.gpu.runner import Runner
from gpuvm.gpu.vbios import PROM_BASE, PROM_SIZE, build
from gpuvm.jit.space import AddressSpace
from gpuvm.pci.config import ConfigSpace
from gpuvm.pci.device import Bar, InterruptSink
from gpuvm.pci.memory import BusMemory, MemoryRegion
from gpuvm.registers.map import RegisterFile

if TYPE_CHECKING:
    from gpuvm.jit.executor import Executor as JitExecutor

VENDOR = 0x10DE
CLASS_VGA = 0x030000
REGISTERS = Bar(0, 16 << 20)
BAR1 = Bar(1, 128 << 20, is_64bit=True, prefetchable=True)
BAR3 = Bar(3, 64 << 20, is_64bit=True, prefetchable=True)

PCI_MIRROR, PCI_MIRROR_SIZE = 0x88000, 0x1000
PROM_ENABLE = 0x50
"""Word of configuration space that a driver writes to reach the PROM; it is always reachable here."""

MSI_REARM = 0x704
"""Offset in the PCI mirror."""

BAR0_SIZE, BAR1_SIZE, BAR3_SIZE = REGISTERS.size, BAR1.size, BAR3.size
PRAMIN_END = PRAMIN_BASE + PRAMIN_SIZE

_MASKS = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFFFFFF, 8: 0xFFFFFFFF_FFFFFFFF}

ErrorListener = Callable[[int, Stop | None], None]


class Gf100:
    """The software GPU.

    Parameters
    ----------
    vram : int
        Bytes of video memory, a multiple of 1 MiB; costs only what is touched.
    profile : Profile
        Which product.
    executor : Executor, optional
        Who runs grids; by default `gpuvm.jit.executor.Executor`, made at the first launch and closed with the
        GPU.
    watchdog_s : float, optional
        Longest wall time of one launch in seconds, compilation included; a longer one stops its channel with
        an engine timeout. None: no limit.
    address_space : callable, optional
        Makes the host's view of an address space; for tests.
    """

    def __init__(
        self,
        vram: int = 1 << 30,
        profile: Profile = QUADRO_6000,
        executor: Executor | None = None,
        watchdog_s: float | None = None,
        address_space: Callable[[], AddressSpace] = AddressSpace,
    ) -> None:
        if vram % (1 << 20) or vram <= 0:
            raise ValueError(f"VRAM must be a positive multiple of 1 MiB (1048576 bytes), got {vram}")
        self.profile = profile
        self.vram = MemoryRegion(vram, "vram")
        self.partitions = profile.partitions(vram)
        self.watchdog_s = watchdog_s
        self.counters = Counters()
        self.memory = PhysicalMemory(self.vram)
        self.mmu = Mmu(self.memory, address_space)
        self.registers = RegisterFile(REGISTERS.size)
        self.classes = BY_ENGINE

        self._executor = executor
        self._own_executor: JitExecutor | None = None
        self._error_listeners: list[ErrorListener] = []
        self._guard = Guard(self._collect)
        self._sink: InterruptSink | None = None
        self._rearm = False
        self._asserted = False
        self._level = False
        self._closed = False

        self.config = ConfigSpace(
            vendor=VENDOR,
            device=profile.device,
            class_code=CLASS_VGA,
            bars=self.bars,
            subsystem_vendor=profile.subsystem_vendor,
            subsystem=profile.subsystem,
            kept=(PROM_ENABLE,),
            changed=self._config_changed,
        )
        self.prom = build(VENDOR, profile)

        self.pramin = Pramin(self)
        self.bar1 = BarAperture(self, 1)
        self.bar3 = BarAperture(self, 3)
        self.runner = Runner(self)
        self.pmc = Pmc(self)
        self.pbus = Pbus(self)
        self.ptimer = Ptimer(self)
        self.pfb = Pfb(self)
        self.pfifo = Pfifo(self)
        self.psubfifo = Psubfifo(self)
        self.pgraph = Pgraph(self)
        self.ctxctl = Ctxctl(self)
        self.gpccs = Gpccs(self)
        self.pcopy = Pcopy(self)
        self.pmu = Pmu(self)
        self.board = Board(self)
        self.engines: tuple[Engine, ...] = (
            self.pmc,
            self.pbus,
            self.ptimer,
            self.pfb,
            self.pfifo,
            self.psubfifo,
            self.pgraph,
            self.ctxctl,
            self.gpccs,
            self.pcopy,
            self.pmu,
            self.board,
        )
        for engine in self.engines:
            engine.place()
        self.registers.window(PCI_MIRROR, PCI_MIRROR_SIZE, "PPCI", self._mirror_read, self._mirror_write32)
        self.registers.window(PROM_BASE, PROM_SIZE, "PROM", self._prom_read, None)
        self.registers.freeze()
        self.board.power_on()
        self._pmc_enable = self.pmc.at("PMC", "ENABLE")

    # PciDevice

    @property
    def bars(self) -> Sequence[Bar]:
        """BAR0 registers, BAR1 and BAR3 translated apertures."""
        return (REGISTERS, BAR1, BAR3)

    def connect(self, memory: BusMemory, interrupts: InterruptSink) -> None:
        """Plug the GPU in: `memory` is what its DMA reaches, `interrupts` who hears it."""
        self.memory.connect(memory)
        self._sink = interrupts

    def config_read(self, offset: int, size: int) -> int:
        """Read configuration space."""
        return self.config.read(offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Write configuration space."""
        self.config.write(offset, size, value)

    def read(self, bar: int, offset: int, size: int) -> int:
        """Read a BAR: 1, 2, 4 or 8 bytes, little-endian."""
        self.counters.reads += 1
        if size == 4 and not offset & 3:
            return self._read32(bar, offset)
        if size == 8 and not offset & 3:
            return self._read32(bar, offset) | self._read32(bar, offset + 4) << 32
        mask = _MASKS.get(size)
        if mask is None:
            return 0
        shift = 8 * (offset & 3)
        word = self._read32(bar, offset & ~3)
        if shift + 8 * size > 32:
            word |= self._read32(bar, (offset & ~3) + 4) << 32
        return word >> shift & mask

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        """Write a BAR: 1, 2, 4 or 8 bytes, little-endian."""
        self.counters.writes += 1
        if size == 4 and not offset & 3:
            self._write32(bar, offset, value & 0xFFFFFFFF)
        elif size == 8 and not offset & 3:
            self._write32(bar, offset, value & 0xFFFFFFFF)
            self._write32(bar, offset + 4, value >> 32 & 0xFFFFFFFF)
        elif size in (1, 2):
            self._write_part(bar, offset, size, value)

    def _write_part(self, bar: int, offset: int, size: int, value: int) -> None:
        """A write of less than a word: memory keeps the other bytes, the PCI mirror takes it as it is."""
        if bar == 0 and PCI_MIRROR <= offset < PCI_MIRROR + PCI_MIRROR_SIZE:
            self._mirror_write(offset - PCI_MIRROR, size, value)
            return
        for at in range(size):
            shift = 8 * (offset + at & 3)
            word = self._read32(bar, offset + at & ~3)
            byte = value >> 8 * at & 0xFF
            self._write32(bar, offset + at & ~3, word & ~(0xFF << shift) | byte << shift)

    def _read32(self, bar: int, offset: int) -> int:
        if bar == 0:
            if PRAMIN_BASE <= offset < PRAMIN_END:
                return self.pramin.read32(offset - PRAMIN_BASE)
            return self.registers.read(offset) if 0 <= offset < BAR0_SIZE else 0
        if bar == 1:
            return self.bar1.read32(offset) if 0 <= offset < BAR1_SIZE else 0
        if bar == 3:
            return self.bar3.read32(offset) if 0 <= offset < BAR3_SIZE else 0
        return 0

    def _write32(self, bar: int, offset: int, value: int) -> None:
        if bar == 0:
            if PRAMIN_BASE <= offset < PRAMIN_END:
                self.pramin.write32(offset - PRAMIN_BASE, value)
            elif 0 <= offset < BAR0_SIZE:
                if self.registers.plain(offset):
                    self.registers.write(offset, value)
                else:
                    with self._guard:
                        self.registers.write(offset, value)
        elif bar == 1:
            if 0 <= offset < BAR1_SIZE:
                self.bar1.write32(offset, value)
                if offset & 0xFFF == USERD_GP_PUT:
                    self._doorbell(offset)
        elif bar == 3 and 0 <= offset < BAR3_SIZE:
            self.bar3.write32(offset, value)

    def _mirror_read(self, offset: int) -> int:
        return self.config.read(offset, 4) if offset < 256 else 0

    def _mirror_write32(self, offset: int, value: int) -> None:
        self._mirror_write(offset, 4, value)

    def _prom_read(self, offset: int) -> int:
        return int.from_bytes(self.prom[offset : offset + 4], "little")

    def _doorbell(self, offset: int) -> None:
        base = self.pfifo.poll_base
        if 0 <= base <= offset < base + CHANNELS * 0x1000:
            self.pfifo.doorbell(offset - base)

    def _mirror_write(self, offset: int, size: int, value: int) -> None:
        if offset == MSI_REARM:
            with self._guard:
                self.interrupt_changed(rearm=True)
        elif offset < 256:
            self.config.write(offset, size, value)

    def read_block(self, bar: int, offset: int, length: int, width: int = 4) -> bytes:
        """Read `length` bytes as accesses of `width` bytes; counted so, fast on BAR1, BAR3 and PRAMIN."""
        if length <= 0 or offset < 0:
            return b""
        self.counters.reads += -(-length // width)
        if bar == 1 and offset + length <= BAR1.size:
            return self.bar1.read_block(offset, length)
        if bar == 3 and offset + length <= BAR3.size:
            return self.bar3.read_block(offset, length)
        if bar == 0 and offset >= PRAMIN_BASE and offset + length <= PRAMIN_BASE + PRAMIN_SIZE:
            return self.pramin.read_block(offset - PRAMIN_BASE, length)
        self.counters.reads -= -(-length // width)
        pieces = [
            self.read(bar, offset + at, width).to_bytes(width, "little") for at in range(0, length, width)
        ]
        return b"".join(pieces)[:length]

    def write_block(self, bar: int, offset: int, data: bytes, width: int = 4) -> None:
        """Write `data` as accesses of `width` bytes; counted so, fast on BAR1, BAR3 and PRAMIN."""
        view, length = memoryview(data), len(data)
        if not length or offset < 0:
            return
        self.counters.writes += -(-length // width)
        if bar == 1 and offset + length <= BAR1.size:
            self.bar1.write_block(offset, view)
            first = offset + (USERD_GP_PUT - offset & 0xFFF)
            for at in range(first, offset + length, 0x1000):
                self._doorbell(at)
        elif bar == 3 and offset + length <= BAR3.size:
            self.bar3.write_block(offset, view)
        elif bar == 0 and offset >= PRAMIN_BASE and offset + length <= PRAMIN_BASE + PRAMIN_SIZE:
            self.pramin.write_block(offset - PRAMIN_BASE, view)
        else:
            self.counters.writes -= -(-length // width)
            for at in range(0, length, width):
                piece = view[at : at + width]
                self.write(bar, offset + at, len(piece), int.from_bytes(piece, "little"))

    def reset(self) -> None:
        """Function-level reset: configuration and registers as after power-on; memory keeps its content."""
        with self.locked():
            self.config.reset()
            for engine in self.engines:
                engine.reset()
            self.interrupt_changed()

    def close(self) -> None:
        """End the engine thread and give the memory back."""
        if self._closed:
            return
        self._closed = True
        self.runner.close()
        self.ptimer.disarm()
        self.bar1.bind(0)
        self.bar3.bind(0)
        self.pramin.close()
        self.mmu.close()
        if self._own_executor is not None:
            self._own_executor.close()
            self._own_executor = None
        self._sink = None
        self.memory.forget()
        self.vram.close()

    def __enter__(self) -> Gf100:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # For the owner

    def wrote(self, address: int, size: int) -> None:
        """Say that a range of VRAM was written as memory: page tables in it may have changed."""
        self.memory.wrote(self.vram, address, size)

    def on_idle(self, listener: Callable[[int], None]) -> None:
        """Call `listener(channel)` on the engine thread when a channel's GP_GET has reached GP_PUT and its
        work is done.
        """
        self.runner.idle_listeners.append(listener)

    def on_switch(self, listener: Callable[[int, bool], None]) -> None:
        """Call `listener(channel, waits)` on the engine thread when a channel's time slice ended with work
        left, or (`waits`) when it waits for a semaphore.
        """
        self.runner.switch_listeners.append(listener)

    def on_turn(self, listener: Callable[[int, int, int], None]) -> None:
        """Call `listener(channel, began, ended)` on the engine thread for each stretch for which a channel had
        the engines, in nanoseconds of `time.monotonic_ns`.
        """
        self.runner.turn_listeners.append(listener)

    def give(self, channel: int, until: int) -> None:
        """Let a channel run until a time of `time.monotonic_ns` (0: for as long as it has work), from then on
        it rests, switched out, until it is given time again. May be called while it runs, to move the end.
        """
        self.runner.give(channel, until)

    def pending(self, channel: int) -> bool:
        """Whether a channel may run and has something to look at: it will, when the engines come to it."""
        return self.runner.pending(channel)

    def rest(self, channel: int) -> None:
        """Switch a channel out, and keep it off the engines until it is given time."""
        self.runner.rest(channel)

    def on_error(self, listener: ErrorListener) -> None:
        """Call `listener(channel, stop)` when a channel faults or traps; `stop` is None if it only waits for
        the driver.
        """
        self._error_listeners.append(listener)

    # For the engines

    def locked(self) -> Guard:
        """Hold the registers; an interrupt that changed meanwhile is delivered when they are let go."""
        return self._guard

    def interrupt_changed(self, rearm: bool = False) -> None:
        """Say that the interrupt line may have moved, or (`rearm`) that a message is due again if it is
        pending.
        """
        self._guard.dirty = True
        self._rearm = self._rearm or rearm

    def _collect(self) -> tuple[Callable[[], None], ...]:
        """Work out what to tell the machine; called with the lock held, the calls are made without it."""
        rearm, self._rearm = self._rearm, False
        before, self._asserted = self._asserted, self.pmc.asserted
        sink = self._sink
        self.config.show_intx(self._asserted)
        calls: list[Callable[[], None]] = []
        if sink is None:
            return ()
        message = self.config.msi_enabled
        level = self._asserted and not message and self.config.intx_enabled
        if level != self._level:
            self._level = level
            calls.append(lambda: sink.level(level))
        if message and self.config.bus_master and self._asserted and (rearm or not before):
            calls.append(lambda: sink.message(0))
        return tuple(calls)

    def _config_changed(self) -> None:
        with self.locked():
            self.interrupt_changed()

    @property
    def fifo_enabled(self) -> bool:
        """Whether PFIFO is out of reset."""
        return bool(self.registers.words[self._pmc_enable] & pmc_bits.ENABLE_PFIFO)

    def reset_engines(self, bits: int) -> None:
        """Reset the engines whose bits of PMC.ENABLE went to 0."""
        if bits & pmc_bits.ENABLE_PGRAPH:
            self.pgraph.reset()
            self.pfifo.forget_timeout()
            self.ctxctl.reset()
            self.gpccs.reset()
        if bits & pmc_bits.ENABLE_PFIFO:
            self.psubfifo.reset()
            self.pfifo.reset()
        if bits & (pmc_bits.ENABLE_PCOPY0 | pmc_bits.ENABLE_PCOPY1):
            self.pcopy.reset()
        if bits & pmc_bits.ENABLE_PDAEMON:
            self.pmu.reset()

    def executor(self) -> Executor:
        """Return who runs grids, made at the first launch."""
        if self._executor is not None:
            return self._executor
        if self._own_executor is None:
            from gpuvm.jit import executor

            self._own_executor = executor.Executor()
        return self._own_executor

    def notify_error(self, channel: Channel) -> None:
        """Tell the owner that a channel stopped or waits."""
        for listener in self._error_listeners:
            listener(channel.number, channel.stop)

    def engine_error(
        self,
        channel: Channel,
        target: ClassObject,
        subchannel: int,
        method: int,
        data: int,
        error: DataError | None,
    ) -> None:
        """Report a refused method through the engine that the object belongs to."""
        if target.ENGINE == 0:
            self.pgraph.method_error(channel, target.TABLE.number, subchannel, method, data, error)
        else:
            self.pcopy.refuse(channel, target.ENGINE - 4, subchannel, method, data, error is None)

    def engine_fault(self, channel: Channel, target: ClassObject, fault: MmuFault) -> None:
        """Report a fault of an engine's access through the unit of that engine."""
        if target.ENGINE == 0:
            self.pgraph.object_fault(channel, target, fault)
        else:
            engine = target.ENGINE - 4
            self.pfifo.channel_fault(channel, UNIT_PCOPY0 + engine, fault, 1 + engine, None)

    def illegal_class(self, channel: Channel, engine: int, subchannel: int, data: int) -> None:
        """Report a bind to a class that no engine has."""
        self.pgraph.class_error(channel, subchannel, data)
