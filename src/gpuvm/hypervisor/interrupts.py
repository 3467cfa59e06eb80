"""Interrupts of the physical GPU: read from its registers, attributed to a VM, shown in that VM's registers,
acknowledged.

One thread, woken by the GPU's message. A fault, a PBDMA error and a PGRAPH trap name a channel or an
instance block; a non-stall event names only an engine and goes to the VMs that have, or just had, work on
the GPU.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import structlog

from gpuvm.hypervisor.engines import Event
from gpuvm.hypervisor.physical import (
    MSI_REARM,
    PBDMA,
    PBDMA_INTR,
    PBDMA_STRIDE,
    PFIFO_ENGINE_STATE,
    PFIFO_INTR,
    PMC_INTR,
    PMC_INTR_ENABLE,
)

if TYPE_CHECKING:
    from gpuvm.hypervisor.aggregator import Aggregator
    from gpuvm.hypervisor.channels import ShadowChannel
    from gpuvm.hypervisor.full import FullGpu

log = structlog.get_logger(__name__)

LINES_PCOPY = (1 << 5, 1 << 6)
LINE_PFIFO = 1 << 8
LINE_PGRAPH = 1 << 12

SCHED_ERROR = 0x00254C
FAULT_UNITS = 0x00259C
PBDMA_UNITS = 0x0025A0
NONSTALL_UNITS = 0x0025A4
NONSTALL = 0x0025A8
FAULTS = 0x002800
RUNLIST = 0x002A00
INTR_SCHED = 1 << 8
INTR_FAULT = 1 << 28
INTR_PBDMA = 1 << 29
INTR_RUNLIST = 1 << 30
INTR_NONSTALL = 1 << 31
PBDMA_ADDRESS, PBDMA_DATA, PBDMA_CHANNEL = 0x0C0, 0x0C4, 0x120
CHANNEL_MASK = 0x7F

COPY, COPY_STRIDE = 0x104000, 0x1000
COPY_CLEAR, COPY_INTR, COPY_CURRENT = 0x004, 0x008, 0x050
COPY_SCRATCH = (0x040, 0x044)

GRAPH_INTR = 0x400100
GRAPH_TRAP = 0x400108
GRAPH_ERROR = 0x400110
GRAPH_TRAP_GPC = 0x400118
GRAPH_FIFO = 0x400500
TRAPPED_ADDRESS, TRAPPED_DATA = 0x400704, 0x400708
BOUND_CLASSES = tuple(range(0x404200, 0x404220, 4))
TRAP_MACRO = 1 << 7
MACRO_TRAP, MACRO_TRAP_PC, MACRO_TRAP_OPCODE = 0x404490, 0x404494, 0x40449C
MACRO_TRAP_CLEAR = 0xC0000000
FECS_CURRENT = 0x409B00
FECS_INTR, FECS_INTR_ACK = 0x409C18, 0x409C20
GRAPH_INTR_TRAP = 1 << 21
GRAPH_INTR_FECS = 1 << 19
GPC, GPC_STRIDE, GPC_TRAP = 0x500000, 0x8000, 0x2C90
TPC, TPC_STRIDE = 0x4000, 0x800
TPC_STATUS = (0x508, 0x644, 0x648, 0x64C, 0x650)
TPC_ACKNOWLEDGE = (0x648, 0x650)
INSTANCE = 0x0FFFFFFF
ROUNDS = 64
"""Passes over the registers before the thread gives up on a line that stays asserted."""


class Interrupts:
    """The sink of the physical GPU's interrupts."""

    def __init__(self, aggregator: Aggregator) -> None:
        self._aggregator = aggregator
        self._gpu = aggregator.gpu
        self._wake = threading.Event()
        self._closed = False
        self.handled = 0
        self.stray_faults = 0
        """Faults of no channel that a virtual GPU has."""
        self._thread = threading.Thread(target=self._run, name="gpuvm-interrupts", daemon=True)
        self._thread.start()

    def message(self, vector: int) -> None:
        """The GPU sent a message (on any of its threads): handled on ours."""
        self._wake.set()

    def level(self, asserted: bool) -> None:
        if asserted:
            self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._closed:
                return
            try:
                self._service()
            except Exception:
                log.exception("handling an interrupt of the physical GPU failed")

    def _service(self) -> None:
        gpu = self._gpu
        if self._aggregator.exclusive:
            return
        gpu.write(PMC_INTR_ENABLE, 0)
        try:
            for _ in range(ROUNDS):
                lines = gpu.read(PMC_INTR)
                if not lines & (LINE_PFIFO | LINE_PGRAPH | LINES_PCOPY[0] | LINES_PCOPY[1]):
                    break
                self.handled += 1
                # The trap of a warp is read before the fault that came with it stops the channel.
                if lines & LINE_PGRAPH:
                    self._graph()
                if lines & LINE_PFIFO:
                    self._fifo()
                for engine, line in enumerate(LINES_PCOPY):
                    if lines & line:
                        self._copy(engine)
        finally:
            gpu.write(PMC_INTR_ENABLE, 1)
            gpu.device.write(0, MSI_REARM, 1, 0xFF)

    # PFIFO

    def _fifo(self) -> None:
        gpu = self._gpu
        status = gpu.read(PFIFO_INTR)
        if status & INTR_NONSTALL:
            self._nonstall()
        if status & INTR_FAULT:
            self._faults()
        if status & INTR_PBDMA:
            units = gpu.read(PBDMA_UNITS)
            for unit in range(8):
                if units >> unit & 1:
                    self._pbdma(unit)
        if status & INTR_RUNLIST:
            gpu.write(RUNLIST, gpu.read(RUNLIST))
        if status & INTR_SCHED:
            self._sched()
        gpu.write(PFIFO_INTR, status)

    def _nonstall(self) -> None:
        gpu = self._gpu
        units = gpu.read(NONSTALL_UNITS)
        for unit in range(16):
            if not units >> unit & 1:
                continue
            value = gpu.read(NONSTALL + 4 * unit)
            gpu.write(NONSTALL + 4 * unit, value)
            for vgpu in self._aggregator.full():
                if vgpu.awaits_nonstall:
                    vgpu.awaits_nonstall = bool(vgpu.in_flight) and self._aggregator.may_run(vgpu)
                    with vgpu.lock:
                        vgpu.nonstall(unit, value)

    def _faults(self) -> None:
        gpu = self._gpu
        units = gpu.read(FAULT_UNITS)
        for unit in range(32):
            if not units >> unit & 1:
                continue
            instance, low, high, status = (gpu.read(FAULTS + 0x10 * unit + at) for at in (0, 4, 8, 12))
            gpu.write(FAULT_UNITS, 1 << unit)
            found = self._aggregator.instances.get(instance & INSTANCE)
            if found is None:
                # A doorbell whose page the guest unmapped while it was queued, or a channel that is just
                # gone.
                self.stray_faults += 1
                continue
            vgpu, channel = found
            self._stopped(vgpu, channel)
            with vgpu.lock:
                if channel.instance is not None:
                    vgpu.counters.faults += 1
                    vgpu.engines.fault(unit, channel.instance >> 12, low, high, status)

    def _pbdma(self, unit: int) -> None:
        gpu = self._gpu
        base = PBDMA + PBDMA_STRIDE * unit
        status = gpu.read(base + PBDMA_INTR)
        address, data, number = (gpu.read(base + at) for at in (PBDMA_ADDRESS, PBDMA_DATA, PBDMA_CHANNEL))
        found = self._channel(number & CHANNEL_MASK)
        if found is not None:
            guest = number & ~CHANNEL_MASK | found[1].number
            words = ((PBDMA_ADDRESS, address), (PBDMA_DATA, data), (PBDMA_CHANNEL, guest))
            self._post(*found, base + PBDMA_INTR, status, [(base + at, value) for at, value in words])
        gpu.write(base + PBDMA_INTR, status)

    def _sched(self) -> None:
        gpu = self._gpu
        code = gpu.read(SCHED_ERROR)
        state = gpu.read(PFIFO_ENGINE_STATE)
        found = self._channel(state & CHANNEL_MASK)
        if found is not None:
            guest = found[1].number
            words = [
                (SCHED_ERROR, code),
                (PFIFO_ENGINE_STATE, state & ~CHANNEL_MASK | guest),
                (PBDMA + PBDMA_CHANNEL, guest),
            ]
            self._post(*found, PFIFO_INTR, INTR_SCHED, words)

    # Copy engines

    def _copy(self, engine: int) -> None:
        gpu = self._gpu
        base = COPY + COPY_STRIDE * engine
        status = gpu.read(base + COPY_INTR)
        current = gpu.read(base + COPY_CURRENT)
        shown = [(base + at, gpu.read(base + at)) for at in COPY_SCRATCH]
        found = self._aggregator.instances.get(current & INSTANCE)
        if found is not None and found[1].instance is not None:
            shown.append((base + COPY_CURRENT, current & ~INSTANCE | found[1].instance >> 12))
            self._post(*found, base + COPY_INTR, status, shown)
        gpu.write(base + COPY_CLEAR, status)

    # PGRAPH

    def _graph(self) -> None:
        gpu = self._gpu
        status = gpu.read(GRAPH_INTR)
        instance = gpu.read(FECS_CURRENT) & INSTANCE
        shown = [(at, gpu.read(at)) for at in (GRAPH_ERROR, TRAPPED_ADDRESS, TRAPPED_DATA, *BOUND_CLASSES)]
        if status & GRAPH_INTR_TRAP:
            shown += self._traps()
        if status & GRAPH_INTR_FECS:
            fecs = gpu.read(FECS_INTR)
            gpu.write(FECS_INTR_ACK, fecs)
            shown.append((FECS_INTR, fecs))
        found = self._aggregator.instances.get(instance)
        if found is not None and found[1].instance is not None:
            shown.append((FECS_CURRENT, 0x80000000 | found[1].instance >> 12))
            self._post(*found, GRAPH_INTR, status, shown)
        gpu.write(GRAPH_INTR, status)
        gpu.write(GRAPH_FIFO, 0x00010001)

    def _traps(self) -> list[tuple[int, int]]:
        """Read and clear the trap registers of PGRAPH's units; returns (register, value) for the guest."""
        gpu = self._gpu
        traps, clusters = gpu.read(GRAPH_TRAP), gpu.read(GRAPH_TRAP_GPC)
        shown = [(GRAPH_TRAP, traps), (GRAPH_TRAP_GPC, clusters)]
        for gpc in range(32):
            if not clusters >> gpc & 1:
                continue
            base = GPC + GPC_STRIDE * gpc
            which = gpu.read(base + GPC_TRAP)
            shown.append((base + GPC_TRAP, which))
            for tpc in range(16):
                if not which >> 16 + tpc & 1:
                    continue
                unit = base + TPC + TPC_STRIDE * tpc
                shown += [(unit + at, gpu.read(unit + at)) for at in TPC_STATUS]
                for at in TPC_ACKNOWLEDGE:
                    gpu.write(unit + at, gpu.read(unit + at) if at == TPC_ACKNOWLEDGE[-1] else 0)
            gpu.write(base + GPC_TRAP, which)
        if traps & TRAP_MACRO:
            shown += [(at, gpu.read(at)) for at in (MACRO_TRAP, MACRO_TRAP_PC, MACRO_TRAP_OPCODE)]
            gpu.write(MACRO_TRAP, MACRO_TRAP_CLEAR)
        gpu.write(GRAPH_TRAP_GPC, clusters)
        gpu.write(GRAPH_TRAP, traps)
        return shown

    # Whose

    def _channel(self, physical: int) -> tuple[FullGpu, ShadowChannel] | None:
        for vgpu in self._aggregator.full():
            number = physical - vgpu.channels[0].physical
            if 0 <= number < len(vgpu.channels):
                return vgpu, vgpu.channels[number]
        return None

    def _post(
        self,
        vgpu: FullGpu,
        channel: ShadowChannel,
        register: int,
        bits: int,
        words: list[tuple[int, int]],
    ) -> None:
        """Show an event to the guest; until its driver acknowledged it, the channel is held off the GPU."""
        self._stopped(vgpu, channel)
        with vgpu.lock:
            vgpu.counters.faults += 1
            vgpu.hold(channel)
            vgpu.engines.post(register, Event(bits, words, lambda: vgpu.let_go(channel)))

    def _stopped(self, vgpu: FullGpu, channel: ShadowChannel) -> None:
        """The GPU stopped a channel: nothing of it is in flight any more."""
        vgpu.in_flight.discard(channel.physical)
        self._aggregator.dispatcher.idle(channel.physical)
