"""The techniques of full virtualization, each a small class over `FullGpu`: see docs/modes.md.

What they combine are two independent choices: when shadow page tables follow the guest's (`LazyShadows`), and
which pages of the apertures are mapped into the VM (`RemappedBar3`).
"""

from __future__ import annotations

from functools import cached_property, partial

from gpuvm.hypervisor.address import GuestMemory
from gpuvm.hypervisor.barriers import Barrier, Barriers
from gpuvm.hypervisor.channels import ShadowChannel
from gpuvm.hypervisor.counters import Counters
from gpuvm.hypervisor.full import FullGpu
from gpuvm.hypervisor.shadow import BarTable, GuestSpace, ShadowPool, ShadowSpace
from gpuvm.hypervisor.tracked import TrackedBarTable, TrackedSpace, Tracking


class NaiveGpu(FullGpu):
    """The original without its optimizations."""

    mode = "fv-naive"


class LazyShadows(FullGpu):
    """A TLB flush only marks shadows; they follow when they are about to be used.

    A channel that works, or whose command waits for its turn, uses its tables now: its shadow follows at
    once, as it may go on without a further doorbell.
    """

    def _flush_spaces(self, directory: int | None, trigger: int) -> None:
        for space in self.spaces.all() if directory is None else self.spaces.at(directory):
            space.dirty = True
        for channel in self.channels:
            if channel.space is not None and channel.space.dirty and self._is_working(channel):
                self._before_use(channel)

    def _before_use(self, channel: ShadowChannel) -> None:
        space = channel.space
        if space is not None and space.dirty:
            space.synchronize(self.counters)
            self._flush_space(space.address)

    def _is_working(self, channel: ShadowChannel) -> bool:
        return channel.physical in self.in_flight or self._aggregator.dispatcher.holds(channel.physical)


class _Kept:
    """Barriers that only keep objects from being mapped into the guest."""

    def __init__(self, barriers: Barriers, base: int) -> None:
        self._barriers = barriers
        self._base = base
        self._held: dict[tuple[int, int], Barrier] = {}

    def keep(self, objects: set[tuple[int, int]]) -> None:
        """Keep exactly these (guest VRAM address, bytes)."""
        for gone in self._held.keys() - objects:
            self._barriers.remove(self._held.pop(gone))
        for fresh in objects - self._held.keys():
            self._held[fresh] = self._barriers.add(self._base + fresh[0], fresh[1], None)


class KeptSpace(ShadowSpace):
    """A space whose guest tables stay out of the guest's windows."""

    def __init__(
        self, memory: GuestMemory, pool: ShadowPool, directory: int, limit: int, barriers: Barriers
    ) -> None:
        super().__init__(memory, pool, directory, limit)
        self._kept = _Kept(barriers, memory.base)

    def rebuild(self, counters: Counters) -> None:
        super().rebuild(counters)
        self._kept.keep(self.objects)

    def close(self, zeroed: bool = False) -> None:
        self._kept.keep(set())
        super().close(zeroed)


class KeptBarTable(BarTable):
    """An aperture whose guest tables stay out of the guest's windows."""

    def __init__(self, memory: GuestMemory, size: int, barriers: Barriers) -> None:
        super().__init__(memory, size)
        self._kept = _Kept(barriers, memory.base)

    def rebuild(self, directory: int, limit: int, counters: Counters) -> None:
        super().rebuild(directory, limit, counters)
        self._kept.keep(self.objects())

    def clear(self) -> None:
        self._kept.keep(set())
        super().clear()


class RemappedBar3(FullGpu):
    """Pages of BAR3 that show the guest's video memory, and nothing that a shadow was made of, are mapped into
    the VM. The passes say what the guest's tables are."""

    direct = (3,)

    def _make_space(self, directory: int, limit: int) -> GuestSpace:
        return KeptSpace(self.memory, self._grant.pool, directory, limit, self.barriers)

    def _make_bar_table(self, index: int, size: int) -> BarTable:
        return KeptBarTable(self.memory, size, self.barriers)


class Bar3Gpu(RemappedBar3):
    """The original with BAR3 remapping."""

    mode = "fv-bar3"


class LazyGpu(LazyShadows):
    """The original with lazy shadowing."""

    mode = "fv-lazy"


class OptimizedGpu(LazyShadows, RemappedBar3):
    """The original's best: both."""

    mode = "fv-optimized"


class TrackedGpu(FullGpu):
    """Ours: shadows follow single writes, both apertures are mapped in ranges."""

    mode = "fv"
    direct = (1, 3)
    maps_ranges = True

    @cached_property
    def _tracking(self) -> Tracking:
        return Tracking(
            self.memory,
            self._grant.pool,
            self.barriers,
            self.counters,
            self._flush_space,
            self._gpu.device.wrote,
        )

    def _make_space(self, directory: int, limit: int) -> GuestSpace:
        return TrackedSpace(self._tracking, directory, limit)

    def _make_bar_table(self, index: int, size: int) -> BarTable:
        return TrackedBarTable(self._tracking, size, partial(self._bar_changed, index))

    def _before_use(self, channel: ShadowChannel) -> None:
        space = channel.space
        if isinstance(space, TrackedSpace) and space.unseen:
            space.catch_up()

    def _map_bar(self, index: int) -> None:
        """The table said what changed."""

    def _bar_changed(self, index: int, first: int, count: int, changed: int) -> None:
        self.windows[index].changed(changed)
        if index == 1 and self._poll >= 0:
            poll = self._poll >> 12
            if first < poll + len(self.channels) and first + count > poll:
                with self._aggregator.lock:
                    self._map_poll()
                    self._aggregator.bar1.flush()


TECHNIQUES: tuple[type[FullGpu], ...] = (NaiveGpu, Bar3Gpu, LazyGpu, OptimizedGpu, TrackedGpu)
"""All of them, the dearest first."""
