"""Which GF100 the device is: units, sizes and clocks, as data. Memory size is chosen apart."""

from __future__ import annotations

from dataclasses import dataclass

GDDR5 = 3


@dataclass(frozen=True, slots=True)
class Level:
    """A performance level: clocks in MHz (the multiprocessors run at twice the core's) and core voltage."""

    number: int
    core_mhz: int
    memory_mhz: int
    hub_mhz: int
    microvolts: int


@dataclass(frozen=True, slots=True)
class Profile:
    """The units of one product.

    Attributes
    ----------
    tpc_masks : tuple of int
        Streaming multiprocessors that work in each graphics cluster, a bit each.
    max_gpcs, max_tpcs : int
        Most clusters of the chip, most multiprocessors of a cluster, what the chip reports of its full self.
    max_partitions : int
        Memory partitions (FBP) of the full product; fewer are reported where the memory does not divide.
    slices : int
        Level-2 cache slices of a partition.
    copy_engines : bool
        Whether the fuses show the copy engines; they work either way. Linux 6.12 asks a GF100 for a privileged
        channel on them, which that chip's channels cannot be, logs an error and copies by 0x9039.
    levels : tuple of Level
        Slowest first; the card runs at the last.
    speedo : int
        Fused leakage of the die, from which drivers work out voltages.
    """

    name: str
    device: int
    subsystem_vendor: int
    subsystem: int
    tpc_masks: tuple[int, ...]
    levels: tuple[Level, ...]
    watts: int
    max_gpcs: int = 4
    max_tpcs: int = 4
    max_partitions: int = 6
    slices: int = 2
    channels: int = 128
    pbdmas: int = 3
    memory_type: int = GDDR5
    copy_engines: bool = True
    speedo: int = 0x500

    @property
    def tpcs(self) -> tuple[int, ...]:
        """Streaming multiprocessors in each graphics cluster."""
        return tuple(mask.bit_count() for mask in self.tpc_masks)

    def partitions(self, vram: int) -> int:
        """Memory partitions to report: the most that give each an equal, whole number of MiB."""
        mebibytes = vram >> 20
        return next((n for n in range(self.max_partitions, 0, -1) if mebibytes % n == 0), 1)


_IDLE = Level(0x03, 50, 135, 202, 875_000)
_VIDEO = Level(0x07, 405, 324, 405, 900_000)

QUADRO_6000 = Profile(
    "Quadro 6000", 0x06D8, 0x10DE, 0x076F, (0xF, 0xF, 0x7, 0x7),
    (_IDLE, _VIDEO, Level(0x0F, 574, 1494, 540, 987_500)), 204,
)  # fmt: skip
"""14 multiprocessors in 4 clusters, 448 lanes, 6 GiB in the product."""

GTX_480 = Profile(
    "GeForce GTX 480", 0x06C0, 0x10DE, 0x075F, (0xF, 0xF, 0xF, 0xE),
    (_IDLE, _VIDEO, Level(0x0F, 700, 1848, 648, 1_000_000)), 250,
)  # fmt: skip
"""15 of the chip's 16 multiprocessors, 480 lanes, 1.5 GiB in the product."""

SMALL = Profile(
    "GF100, one multiprocessor", 0x06D8, 0x10DE, 0x076F, (0x1,), (_IDLE, _VIDEO), 60, max_partitions=1
)
"""The least that a driver takes; for tests."""

PROFILES: dict[str, Profile] = {"quadro-6000": QUADRO_6000, "gtx-480": GTX_480, "small": SMALL}
"""Every product by the name that configurations give it."""
