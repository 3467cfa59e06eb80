"""Which GF100 the device is: units and sizes, as data. Memory size is chosen apart."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Profile:
    """The units of one product.

    Attributes
    ----------
    tpcs : tuple of int
        Streaming multiprocessors in each graphics cluster.
    max_gpcs, max_tpcs : int
        Most clusters of the chip, most multiprocessors of a cluster, what the chip reports of its full self.
    max_partitions : int
        Memory partitions (FBP) of the full product; fewer are reported where the memory does not divide.
    """

    name: str
    device: int
    subsystem_vendor: int
    subsystem: int
    tpcs: tuple[int, ...]
    max_gpcs: int = 4
    max_tpcs: int = 4
    max_partitions: int = 6
    slices: int = 2
    channels: int = 128
    pbdmas: int = 3

    def partitions(self, vram: int) -> int:
        """Memory partitions to report: the most that give each an equal, whole number of MiB."""
        mebibytes = vram >> 20
        return next((n for n in range(self.max_partitions, 0, -1) if mebibytes % n == 0), 1)


QUADRO_6000 = Profile("Quadro 6000", 0x06D8, 0x10DE, 0x076F, (4, 4, 3, 3))
"""14 multiprocessors in 4 clusters, 448 lanes, 6 GiB in the product."""

SMALL = Profile("GF100, one multiprocessor", 0x06D8, 0x10DE, 0x076F, (1,), max_partitions=1)
"""The least that a driver takes; for tests."""

PROFILES: dict[str, Profile] = {"quadro-6000": QUADRO_6000, "small": SMALL}
"""Every product by the name that configurations give it."""
