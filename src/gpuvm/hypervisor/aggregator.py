"""The GPU access aggregator: owns the physical GPU and hands it out as virtual GPUs, made and destroyed at
run time.

It alone brings the chip up. Video memory, channels, BAR space and bus windows are ranges that a virtual GPU
gets when it is created and gives back, zeroed, when it is destroyed.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

import structlog

from gpuvm.hypervisor.address import WINDOW_COUNT, WINDOW_SIZE, MachineBus
from gpuvm.hypervisor.apertures import Aperture
from gpuvm.hypervisor.dispatcher import Dispatcher
from gpuvm.hypervisor.errors import ExclusiveError, HypervisorError, OutOfResourcesError, UnknownModeError
from gpuvm.hypervisor.full import FullGpu, Grant
from gpuvm.hypervisor.interrupts import Interrupts
from gpuvm.hypervisor.para.techniques import PARA_TECHNIQUES
from gpuvm.hypervisor.partition import Range, RangeAllocator
from gpuvm.hypervisor.passthrough import PassthroughGpu
from gpuvm.hypervisor.physical import (
    BUSY_BIT,
    ENGINE_BUSY,
    ENGINE_CHANNEL,
    PATIENCE_S,
    PFIFO_CHANNELS,
    PFIFO_ENGINE_STATE,
    PFIFO_INTR_ENABLE,
    PFIFO_INTR_NONSTALL,
    PFIFO_INTR_WANTED,
    PFIFO_KILL,
    PFIFO_USERD,
    PGRAPH_STATUS,
    Gpu,
    PhysicalGpu,
)
from gpuvm.hypervisor.playlist import Playlist
from gpuvm.hypervisor.shadow import ShadowPool
from gpuvm.hypervisor.tables import DIRECTORY_BYTES
from gpuvm.hypervisor.techniques import TECHNIQUES
from gpuvm.hypervisor.virtual import VirtualGpu
from gpuvm.pci.memory import PAGE
from gpuvm.schedulers import Scheduler, make_scheduler

if TYPE_CHECKING:
    from gpuvm.hypervisor.channels import ShadowChannel

log = structlog.get_logger(__name__)

MIB = 1 << 20
PASSTHROUGH = PassthroughGpu.mode
FULL_MODES: dict[str, type[FullGpu]] = {kind.mode: kind for kind in (*TECHNIQUES, *PARA_TECHNIQUES)}
"""Techniques under which virtual GPUs share the card, by name."""

MODES = (PASSTHROUGH, *FULL_MODES)

POLL_PAGES = 128
"""Channels of a GF100: the poll area takes a page of BAR1 for each."""

VRAM_ALIGNMENT = MIB
MEMORY_CONTROLLERS = 0x022438
USERD_GP_GET, USERD_GP_PUT = 0x88, 0x8C
POLL_ENABLE = 0x10000000
BAR1_ARENA = 4 * MIB
BAR3_ARENA = 2 * MIB
SMALLEST_RESERVE = 24 * MIB


class Aggregator:
    """Owner of a physical GPU.

    Parameters
    ----------
    gpu : Gpu
        The physical GPU; the aggregator resets it, brings it up, and leaves it reset when it is closed.
    scheduler : str or Scheduler
        Policy of the dispatcher, by name (`gpuvm.schedulers.NAMES`) or as an object.
    reserve : int, optional
        Bytes at the top of video memory for shadows; an eighth (at least 24 MiB) by default.

    Attributes
    ----------
    bus : MachineBus
        What the GPU's DMA reaches: a window for each VM's RAM.
    lock : RLock
        Around sequences of register accesses on the GPU; taken after a virtual GPU's own lock.
    """

    def __init__(
        self, gpu: Gpu, scheduler: str | Scheduler[Any] = "fifo", *, reserve: int | None = None
    ) -> None:
        if isinstance(scheduler, str):
            try:
                scheduler = make_scheduler(scheduler)
            except ValueError as error:
                raise HypervisorError(str(error)) from None
        self.gpu = PhysicalGpu(gpu)
        self.lock = threading.RLock()
        self.bus = MachineBus()
        self.exclusive = False
        """Whether a pass-through VM has the GPU."""
        self._vgpus: dict[int, VirtualGpu] = {}
        self._full: tuple[FullGpu, ...] = ()
        self._grants: dict[int, Grant] = {}
        self._rung: dict[int, int] = {}
        """Physical channel -> GP_PUT that was rung last."""
        self._next = 1
        self._closed = False
        self.instances: dict[int, tuple[FullGpu, ShadowChannel]] = {}
        """Shadow instance block >> 12 -> whose."""
        size = gpu.vram.size
        reserve = max(size // 8, SMALLEST_RESERVE) if reserve is None else reserve
        reserve = -(-reserve // VRAM_ALIGNMENT) * VRAM_ALIGNMENT
        if reserve >= size:
            raise HypervisorError(
                f"video memory must be larger than the hypervisor's {reserve} bytes of it, got {size}; "
                "make the GPU with more"
            )
        gpu.vram.zero(size - reserve, reserve)
        self.own_memory = RangeAllocator("bytes of the hypervisor's video memory", size - reserve, reserve)
        self.vram = RangeAllocator("bytes of video memory", 0, size - reserve)
        self.channels = RangeAllocator("channels", 0, POLL_PAGES)
        self.windows = RangeAllocator("bus windows", 1, WINDOW_COUNT - 1)
        self.bar1 = Aperture(self.gpu, self.own_memory, 1, reserved=MIB)
        self.bar3 = Aperture(self.gpu, self.own_memory, 3)
        self.playlist = Playlist(self.gpu, self.own_memory)
        self._empty = self.own_memory.allocate(DIRECTORY_BYTES, PAGE).base
        self._shadow_memory = self.own_memory.free
        self._guest_memory = self.vram.free
        self.dispatcher: Dispatcher = Dispatcher(scheduler, _Engines(self))
        self._interrupts = Interrupts(self)
        gpu.on_idle(self._idle)
        gpu.on_switch(self._switched)
        self._bring_up()
        self.memory_partitions = max(gpu.read(0, MEMORY_CONTROLLERS, 4) & 0x1F, 1)

    def _bring_up(self) -> None:
        device = self.gpu.device
        device.reset()
        device.connect(self.bus, self._interrupts)
        self.gpu.vram.zero(self._empty, DIRECTORY_BYTES)
        self.gpu.bring_up()
        self._nonstall = True
        self.update_nonstall()
        self.bar1.start()
        self.bar3.start()
        self.gpu.write(PFIFO_USERD, POLL_ENABLE)

    # Virtual GPUs

    def create(
        self,
        name: str,
        mode: str = "fv-naive",
        *,
        vram: int | None = None,
        channels: int | None = None,
        weight: int = 1,
        cap: float | None = None,
    ) -> VirtualGpu:
        """Make a virtual GPU.

        Parameters
        ----------
        mode : str
            "passthrough" (the whole GPU, alone) or a full technique.
        vram : int, optional
            Bytes of video memory, rounded up to MiB; 256 MiB by default.
        channels : int, optional
            Channels; 8 by default.
        weight : int
            Relative share of GPU time, for schedulers that know one.
        cap : float, optional
            Largest part of the GPU's time that it may use, even if nobody else wants it.

        Raises
        ------
        UnknownModeError
            If there is no such technique.
        ExclusiveError
            If pass-through meets other virtual GPUs.
        OutOfResourcesError
            If so much is not free. Nothing is taken then.
        """
        with self.lock:
            if self._closed:
                raise HypervisorError("a virtual GPU must be created before the aggregator is closed")
            if mode not in MODES:
                hint = "; plug the GPU itself into the VM for native" if mode == "native" else ""
                raise UnknownModeError(f"the mode must be one of {', '.join(MODES)}, got {mode!r}{hint}")
            if weight < 1:
                raise HypervisorError(f"a virtual GPU's weight must be at least 1, got {weight}")
            if cap is not None and (not 0 < cap <= 1 or self.dispatcher.scheduler.concurrent):
                raise HypervisorError(
                    "a virtual GPU's cap must be above 0 and up to 1, and the scheduler must not be direct; "
                    f"got {cap}"
                )
            if self.exclusive or (mode == PASSTHROUGH and self._vgpus):
                raise ExclusiveError(
                    "pass-through needs the GPU for itself; destroy the other virtual GPUs first "
                    f"({', '.join(v.name for v in self._vgpus.values())})"
                )
            number = self._next
            vgpu: VirtualGpu
            if mode == PASSTHROUGH:
                self.exclusive = True
                vgpu = PassthroughGpu(self, number, name)
            else:
                grant = self._grant(256 * MIB if vram is None else vram, 8 if channels is None else channels)
                self._grants[number] = grant
                vgpu = FULL_MODES[mode](self, number, name, grant)
                self._full = (*self._full, vgpu)
                self.dispatcher.add(number, weight, cap)
            self._next += 1
            self._vgpus[number] = vgpu
            return vgpu

    def destroy(self, vgpu: VirtualGpu) -> None:
        """Stop a virtual GPU's channels and give back, zeroed, all that it had. The VM may still hold it: it
        reads 0."""
        if self._vgpus.get(vgpu.id) is not vgpu:
            raise HypervisorError(
                f"virtual GPU {vgpu.name!r} must be one of this aggregator's and not destroyed yet"
            )
        self.dispatcher.remove(vgpu.id)
        quiet = vgpu.release()
        with self.lock:
            del self._vgpus[vgpu.id]
            self._full = tuple(each for each in self._full if each is not vgpu)
            self.update_nonstall()
            grant = self._grants.pop(vgpu.id, None)
            if grant is None:
                self.exclusive = False
                self._bring_up()
            elif quiet:
                # Connecting anew makes the GPU let go of what it holds of the VM's RAM.
                self.gpu.device.connect(self.bus, self._interrupts)
                self._take_back(grant)
            else:
                log.error("the GPU did not let go of a channel; its memory stays taken", vm=vgpu.name)

    def reschedule(self, scheduler: str) -> None:
        """Let another policy decide who is next, while everyone works on.

        Raises
        ------
        HypervisorError
            If there is none of that name, or it does not keep the caps that there are.
        """
        try:
            self.dispatcher.reschedule(make_scheduler(scheduler))
        except ValueError as error:
            raise HypervisorError(str(error)) from None

    def change(self, vgpu: VirtualGpu, weight: int, cap: float | None) -> None:
        """Give a virtual GPU another weight and cap.

        Raises
        ------
        HypervisorError
            If the scheduler does not take them, or nothing is shared.
        """
        if vgpu.mode == PASSTHROUGH:
            raise HypervisorError("pass-through has the whole GPU: there is no weight or cap to change")
        try:
            self.dispatcher.change(vgpu.id, weight, cap)
        except ValueError as error:
            raise HypervisorError(str(error)) from None

    def share(self, vgpu: VirtualGpu) -> tuple[Range, Range]:
        """Bytes of the card's video memory and physical channels that a virtual GPU has; pass-through has
        all."""
        grant = self._grants.get(vgpu.id)
        if grant is None:
            return Range(0, self.gpu.vram.size), Range(0, POLL_PAGES)
        return grant.vram, grant.channels

    def is_idle(self, vgpu: VirtualGpu) -> bool:
        """Whether all that a virtual GPU's guest submitted has run (or will not, until something else
        happens)."""
        if vgpu.mode == PASSTHROUGH:
            return self.gpu.read(PGRAPH_STATUS) == 0
        share = self.dispatcher.scheduler.shares.get(vgpu.id)
        in_flight = isinstance(vgpu, FullGpu) and vgpu.in_flight
        return not in_flight and (share is None or share.queued == 0)

    def recycle(self, vgpu: VirtualGpu) -> None:
        """Make a virtual GPU as it was created, for its next VM: reset, its memory zero."""
        vgpu.reset()
        with self.lock:
            if self._vgpus.get(vgpu.id) is vgpu:
                memory, _ = self.share(vgpu)
                self.gpu.vram.zero(memory.base, memory.size)

    def virtual_gpus(self) -> tuple[VirtualGpu, ...]:
        """All virtual GPUs there are."""
        with self.lock:
            return tuple(self._vgpus.values())

    def full(self) -> tuple[FullGpu, ...]:
        """Those that share the card."""
        return self._full

    def close(self) -> None:
        """Destroy every virtual GPU and let go of the GPU, which is left reset."""
        if self._closed:
            return
        for vgpu in self.virtual_gpus():
            self.destroy(vgpu)
        self._closed = True
        self.dispatcher.close()
        self._interrupts.close()
        self.gpu.device.reset()

    def __enter__(self) -> Aggregator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _grant(self, vram: int, channels: int) -> Grant:
        """Take the ranges of one virtual GPU, all or none."""
        size = -(-vram // VRAM_ALIGNMENT) * VRAM_ALIGNMENT
        if size <= 0 or channels <= 0:
            raise HypervisorError(
                f"a virtual GPU must have video memory and channels, got {vram} bytes and {channels} channels"
            )
        taken: list[tuple[RangeAllocator, Range]] = []
        try:
            for allocator, amount, alignment in (
                (self.vram, size, VRAM_ALIGNMENT),
                (self.channels, channels, 1),
                (self.windows, 1, 1),
            ):
                taken.append((allocator, allocator.allocate(amount, alignment)))
        except OutOfResourcesError:
            for allocator, part in taken:
                allocator.release(part)
            raise
        memory, ids, window = (part for _, part in taken)
        quota = self._shadow_memory * size // self._guest_memory
        return Grant(
            memory,
            ids,
            window.base * WINDOW_SIZE,
            ShadowPool(self.gpu.vram, self.own_memory, quota, self._empty),
            self.bar1.arena(BAR1_ARENA),
            self.bar3.arena(BAR3_ARENA),
        )

    def _take_back(self, grant: Grant) -> None:
        grant.pool.close()
        for aperture, arena in ((self.bar1, grant.arena1), (self.bar3, grant.arena3)):
            if arena is not None:
                aperture.clear(arena)
                aperture.arenas.release(arena)
        self.bar1.clear(Range(grant.channels.base << 12, grant.channels.size << 12))
        self.bar1.flush()
        self.bar3.flush()
        self.gpu.vram.zero(grant.vram.base, grant.vram.size)
        self.windows.release(Range(grant.window // WINDOW_SIZE, 1))
        self.channels.release(grant.channels)
        self.vram.release(grant.vram)

    def update_nonstall(self) -> None:
        """Let the GPU send non-stall interrupts only while a VM wants them: each submission ends in one."""
        with self.lock:
            wanted = any(vgpu.wants_nonstall for vgpu in self._full)
            if wanted != self._nonstall:
                self._nonstall = wanted
                mask = 0 if wanted else PFIFO_INTR_NONSTALL
                self.gpu.write(PFIFO_INTR_ENABLE, PFIFO_INTR_WANTED & ~mask)

    # Channels of the physical GPU

    def stop_channel(self, channel: int) -> bool:
        """Take a channel off the GPU, work in progress included; False if the GPU does not let go of it."""
        register = PFIFO_CHANNELS + 8 * channel
        with self.lock:
            self.gpu.write(register + 4, 0)
            self.gpu.write(register, 0)
        self.dispatcher.cancel(channel)
        deadline = time.monotonic() + PATIENCE_S
        while self.kill_channel(channel) or self._on_engine(channel):
            if time.monotonic() > deadline:
                log.error("the GPU must let go of a channel that was stopped", channel=channel)
                return False
            time.sleep(0.0005)
        return True

    def _on_engine(self, channel: int) -> bool:
        state = self.gpu.read(PFIFO_ENGINE_STATE)
        return bool(state & ENGINE_BUSY) and state & ENGINE_CHANNEL == channel

    def kill_channel(self, channel: int) -> int:
        """Ask the GPU to switch a channel out; returns the busy bit, 0 once it is out."""
        with self.lock:
            self.gpu.write(PFIFO_KILL, channel)
            return self.gpu.read(PFIFO_KILL) & BUSY_BIT

    def _owner(self, channel: int) -> FullGpu | None:
        for vgpu in self._full:
            if 0 <= channel - vgpu.channels[0].physical < len(vgpu.channels):
                return vgpu
        return None

    def ring(self, channel: int, value: int) -> None:
        """Ring the physical doorbell of a channel."""
        owner = self._owner(channel)
        if owner is None:
            return
        self._rung[channel] = value
        owner.in_flight.add(channel)
        owner.awaits_nonstall = True
        self.gpu.device.write(1, (channel << 12) + USERD_GP_PUT, 4, value)

    def give(self, channel: int, until: int) -> None:
        """Give a channel a time slice."""
        owner = self._owner(channel)
        if owner is not None:
            owner.awaits_nonstall = True
        self.gpu.device.give(channel, until)

    def may_run(self, vgpu: FullGpu) -> bool:
        """Whether work of a virtual GPU that is in flight may be on the engines now, and not switched out."""
        dispatcher = self.dispatcher
        if not dispatcher.scheduler.preemptive:
            return True
        active = dispatcher.active_channel
        return active is not None and self._owner(active) is vgpu

    def fetched(self, channel: int) -> int:
        """GP_GET of a physical channel."""
        return self.gpu.device.read(1, (channel << 12) + USERD_GP_GET, 4)

    def _idle(self, channel: int) -> None:
        """The GPU ran all that a channel had."""
        if self.exclusive:
            return
        owner = self._owner(channel)
        # A doorbell that was rung meanwhile is not over.
        if owner is not None and self.fetched(channel) == self._rung.get(channel):
            owner.in_flight.discard(channel)
        self.dispatcher.idle(channel)

    def _switched(self, channel: int, waits: bool) -> None:
        """The GPU switched a channel out, or it waits for a semaphore."""
        if not self.exclusive:
            self.dispatcher.switched(channel, waits)


class _Engines:
    """The physical GPU as the dispatcher sees it."""

    def __init__(self, aggregator: Aggregator) -> None:
        self._gpu = aggregator.gpu
        self._device = aggregator.gpu.device
        self._work = aggregator.gpu.device.counters.channels
        self._aggregator = aggregator
        self.ring = aggregator.ring
        self.give = aggregator.give
        self.rest = self._device.rest

    def consumed(self, channel: int, value: int) -> bool:
        return self._aggregator.fetched(channel) == value and self._gpu.read(PGRAPH_STATUS) == 0

    def busy(self, channel: int) -> bool:
        return self._gpu.read(PGRAPH_STATUS) != 0 or self._device.pending(channel)

    def engine_ns(self, channel: int) -> int:
        return self._work[channel].engine_ns
