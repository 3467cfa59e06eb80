"""The cost model: counted events to device seconds, for a Quadro 6000 on PCIe 2.0 x16 under Xen 4.2.

One table, `COSTS`, says what each event costs and why; `docs/costs.md` prints the same table. Device seconds
never contain a measured time: the same events give the same answer on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Counters = Mapping[str, float]
"""Counted events by name, as `lab.counters` takes them from a running system."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one event takes.

    Attributes
    ----------
    event : str
        Name of the counter.
    seconds : float
        Per event (for bytes, per byte).
    place : str
        Who is busy meanwhile: "cpu", "bus", "issue" (the SMs' schedulers), "chain" (warps that wait for their
        own results) or "dram" (the GPU's memory).
    reason : str
        Where the figure comes from.
    """

    event: str
    seconds: float
    place: str
    reason: str


SM_COUNT = 14
SHADER_HZ = 1.15e9
CHAIN_CLOCKS = 18
"""Shader clocks from one instruction of a warp to the next that needs its result."""
DRAM_BYTES_PER_S = 144e9 * 0.8
"""GDDR5 on 384 pins at 3 Gbit/s, of which streaming kernels get about four fifths."""
MISSES = 0.1
"""Share of the counted segments that reach memory; L1 and L2 answer the rest (see docs/costs.md)."""
DMA_BYTES_PER_S = 3.4e9
"""Calibrated: PINCPY's published 160 ms for 512 MiB, less what is not copying. PCIe 2.0 x16 could do 5.7e9."""
STAGED_BYTES_PER_S = 3.8e9
"""Calibrated: CPY's published 302 ms less PINCPY's 160 ms, for 512 MiB."""

_ISSUE = 1 / (SM_COUNT * SHADER_HZ)
"""Seconds of the whole GPU for one warp instruction: an SM issues two half-warps a shader clock."""

MMIO_READ = 1.0e-6
MMIO_WRITE = 0.15e-6
TRAP = 14e-6

COSTS: tuple[Cost, ...] = (
    Cost("direct_bar0_read", MMIO_READ, "bus", "uncached PCIe read, request and completion: 0.8 to 1.2 us"),
    Cost("direct_bar0_write", MMIO_WRITE, "bus", "posted write, uncached: bound by the CPU's store queue"),
    Cost("direct_bar1_read", MMIO_READ, "bus", "as BAR0; a read is never combined"),
    Cost("direct_bar1_write", MMIO_WRITE, "bus", "as BAR0; USERD is mapped uncached"),
    Cost("direct_bar3_read", MMIO_READ, "bus", "as BAR0; a read is never combined"),
    Cost("direct_bar3_write", 0.03e-6, "bus", "write-combined: a 64-byte packet holds 16 stores of 4 bytes"),
    Cost(
        "traps_bar0_read", TRAP + MMIO_READ, "cpu", "exit, device model, answer (see below), then the access"
    ),
    Cost("traps_bar0_write", TRAP + MMIO_WRITE, "cpu", "Xen 4.2 completes a write before the guest goes on"),
    Cost("traps_bar1_read", TRAP + MMIO_READ, "cpu", "as BAR0"),
    Cost("traps_bar1_write", TRAP + MMIO_WRITE, "cpu", "as BAR0; doorbells come this way"),
    Cost("traps_bar3_read", TRAP + MMIO_READ, "cpu", "as BAR0; resolved through the VM's BAR3 tables"),
    Cost("traps_bar3_write", TRAP + MMIO_WRITE, "cpu", "as BAR0; resolved through the VM's BAR3 tables"),
    Cost("config_accesses", TRAP, "cpu", "configuration cycles reach the same device model"),
    Cost("shadow_reads", MMIO_READ, "cpu", "32 bits of a table read through the PRAMIN window"),
    Cost("shadow_writes", MMIO_WRITE, "cpu", "32 bits of a shadow written through the PRAMIN window"),
    Cost("shadow_passes", 5e-6, "cpu", "start of a pass: channel look-up, window switches"),
    Cost("tlb_flushes", 12e-6, "bus", "TLB flush: trigger, then 0x100c80 polled until done"),
    Cost("hypercalls", 1.5e-6, "cpu", "frame translation: privcmd call, hypercall, p2m look-up"),
    Cost("doorbells", 9e-6, "cpu", "hand-over to the scheduler's thread, 0x400700 polled until idle"),
    Cost("traps_call", TRAP, "cpu", "a register of the para-virtual call device: a trap as any"),
    Cost("call_entries", 0.1e-6, "cpu", "check and translate an entry that a call passed"),
    Cost("table_writes", 0.5e-6, "cpu", "find a trapped table write's shadow entry, check, translate"),
    Cost("map_calls", 5e-6, "cpu", "memory-mapping hypercall: p2m changed, translations flushed"),
    Cost("interrupts", 4e-6, "cpu", "injection, acknowledge, wake-up of the waiter"),
    Cost("launches", 4e-6, "issue", "methods, constant upload, first block's dispatch, drain"),
    Cost("copies", 3e-6, "bus", "copy engine's start and its semaphore"),
    Cost("bytes_host_to_device", 1 / DMA_BYTES_PER_S, "bus", "system memory to VRAM"),
    Cost("bytes_device_to_host", 1 / DMA_BYTES_PER_S, "bus", "VRAM to system memory"),
    Cost("bytes_device_to_device", 2 / DRAM_BYTES_PER_S, "dram", "a byte moved is read and written"),
    Cost("bytes_host_to_host", 2 / DMA_BYTES_PER_S, "bus", "over the bus and back"),
    Cost("bytes_staged", 1 / STAGED_BYTES_PER_S, "cpu", "pageable memory to or from page-locked memory"),
    Cost("bytes_inline", 1 / DMA_BYTES_PER_S, "bus", "data inside the pushbuffer"),
    Cost(
        "chained_instructions",
        CHAIN_CLOCKS / SHADER_HZ,
        "chain",
        "a warp's next instruction waits for the last",
    ),
    Cost("warp_instructions", _ISSUE, "issue", "14 SMs, one warp of 32 lanes a shader clock each"),
    Cost("double_instructions", _ISSUE, "issue", "double precision takes a second clock"),
    Cost("special_instructions", 7 * _ISSUE, "issue", "four special-function units: 8 clocks, 1 is counted"),
    Cost("shared_accesses", _ISSUE, "issue", "16 load/store units: 2 clocks a warp, 1 is counted"),
    Cost("barriers", 8 * _ISSUE, "issue", "drains the pipeline of its warps, partly hidden by others"),
    Cost("atomics", 9 * _ISSUE, "issue", "served at the L2, a group of lanes at a time"),
    Cost(
        "global_transactions", MISSES * 128 / DRAM_BYTES_PER_S, "dram", "a 128-byte segment, if caches miss"
    ),
)
"""Each event's cost, once."""

_BY_EVENT = {cost.event: cost for cost in COSTS}


def device_seconds(counters: Counters) -> float:
    """Time the modelled machine takes for the counted events, in seconds.

    CPU and bus times add up: the original serves one access at a time and its guests wait. On the GPU the
    SMs' schedulers, the pipelines and the memory work side by side, so the longest counts. Events not in
    `COSTS` are free.
    """
    parts = device_parts(counters)
    return parts["cpu"] + parts["bus"] + max(parts["issue"], parts["chain"], parts["dram"])


def device_parts(counters: Counters) -> dict[str, float]:
    """The same by place, before the overlap is taken off."""
    parts = {"cpu": 0.0, "bus": 0.0, "issue": 0.0, "chain": 0.0, "dram": 0.0}
    for event, count in counters.items():
        cost = _BY_EVENT.get(event)
        if cost is not None:
            parts[cost.place] += cost.seconds * count
    return parts


def table() -> str:
    """The table as Markdown, for docs/costs.md."""
    lines = ["| event | seconds each | who is busy | why |", "|---|---|---|---|"]
    lines += [f"| `{c.event}` | {c.seconds:.3g} | {c.place} | {c.reason} |" for c in COSTS]
    return "\n".join(lines)
