"""The access policy: what becomes of a guest's access to each range of BAR0, as data with the reason.

A later row overrides an earlier one where they overlap. What no row lists is denied: it reads 0, a write is
dropped, both are counted. `how` names the handlers (`read_<how>` and `write_<how>`) of the virtual GPU or of
its per-VM engines.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

PAGE_SHIFT = 12
PAGE_WORDS = 1 << (PAGE_SHIFT - 2)


class Action(enum.Enum):
    """What the hypervisor does with an access."""

    FORWARDED = "forwarded"
    """The physical register answers."""
    EMULATED = "emulated"
    """State of this VM answers; the physical GPU does not see the access."""
    TRANSLATED = "translated"
    """Channel ids and addresses are translated and checked, then the physical GPU sees it."""
    DENIED = "denied"
    """Reads 0, drops writes, counted."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One range of BAR0: bytes `first` to `last`, in whole words, `count` times `stride` bytes apart."""

    first: int
    last: int
    action: Action
    how: str
    why: str
    count: int = 1
    stride: int = 0

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield (first, last) of each repetition."""
        for n in range(self.count):
            yield self.first + n * self.stride, self.last + n * self.stride


F, E, T, D = Action.FORWARDED, Action.EMULATED, Action.TRANSLATED, Action.DENIED
CHIP = "chip"
"""Read from the chip, writes dropped and counted."""
PRIVATE = "private"
"""A word of this VM that starts as 0 and keeps what is written."""
OVERLAY = "overlay"
"""The chip's value until this VM writes its own."""

POLICY: tuple[Rule, ...] = (
    Rule(0x000000, 0x000007, F, CHIP, "chip identity: the same for everyone"),
    Rule(0x000100, 0x000107, E, "pmc_intr", "interrupt lines of this VM's own channels, faults and fences"),
    Rule(0x000140, 0x000147, E, "pmc_intr_enable", "interrupt enable of this VM"),
    Rule(0x000160, 0x000163, E, "pmc_line", "this VM's interrupt pin"),
    Rule(0x000200, 0x000203, E, "pmc_enable", "a guest's engine reset stops its own channels only"),
    Rule(0x000204, 0x000207, E, "pmc_subfifo", "counted by writing ones; the engines stay as they are"),
    Rule(0x000260, 0x000263, E, PRIVATE, "clock gate around the guest's own microcode upload"),
    Rule(0x000640, 0x000647, E, "pmc_mask", "interrupt mask of this VM"),
    Rule(0x001000, 0x001FFF, E, OVERLAY, "bus unit set-up is done once by the aggregator"),
    Rule(0x001100, 0x001103, E, "acknowledge", "no bus error reaches a guest"),
    Rule(0x001700, 0x001703, E, PRIVATE, "each VM has its own PRAMIN window base"),
    Rule(
        0x001704,
        0x001707,
        T,
        "bar1_instance",
        "the GPU keeps the hypervisor's BAR1; the guest's tables are shadowed",
    ),
    Rule(
        0x001714,
        0x001717,
        T,
        "bar3_instance",
        "the GPU keeps the hypervisor's BAR3; the guest's tables are shadowed",
    ),
    Rule(0x001718, 0x00171B, D, "denied", "a third window by physical instance block"),
    Rule(0x002000, 0x002FFF, E, PRIVATE, "PFIFO set-up is done once by the aggregator"),
    Rule(0x002100, 0x002103, E, "pfifo_intr", "PFIFO events of this VM"),
    Rule(0x002140, 0x002143, E, "pfifo_intr_enable", "PFIFO interrupt mask of this VM"),
    Rule(0x002254, 0x002257, T, "userd", "poll area: the physical one is the hypervisor's"),
    Rule(0x002270, 0x002273, E, PRIVATE, "kept until the length register is written"),
    Rule(0x002274, 0x002277, T, "playlist", "ids translated, merged with the other VMs' lists"),
    Rule(0x00227C, 0x00227F, E, "idle", "the merged list was read when the length write returned"),
    Rule(0x00254C, 0x00254F, E, "constant", "scheduling error of this VM's channel"),
    Rule(0x00259C, 0x00259F, E, "fault_units", "which units of this VM's channels faulted"),
    Rule(0x0025A0, 0x0025A3, E, "pbdma_units", "which PBDMAs stopped one of this VM's channels"),
    Rule(0x0025A4, 0x0025A7, E, "nonstall_units", "non-stall events of this VM"),
    Rule(0x0025A8, 0x0025BF, E, "acknowledge", "non-stall events of this VM"),
    Rule(0x002634, 0x002637, T, "kill", "channel id translated; busy until the GPU let go of it"),
    Rule(
        0x002640,
        0x00267F,
        E,
        "constant",
        "engine states: which of this VM's channels is stuck, never another's",
    ),
    Rule(0x002800, 0x0029FF, E, "constant", "faults of this VM's channels, instance address translated back"),
    Rule(0x002A00, 0x002A03, E, "acknowledge", "playlist events of this VM"),
    Rule(0x003000, 0x0033FF, T, "channel", "channel id translated, the GPU gets the shadow instance block"),
    Rule(0x009000, 0x009FFF, E, PRIVATE, "PTIMER set-up of this VM"),
    Rule(0x009100, 0x009103, E, "timer_intr", "alarms of this VM"),
    Rule(0x009400, 0x009403, E, "time_low", "the chip's clock plus this VM's offset"),
    Rule(0x009410, 0x009413, E, "time_high", "the chip's clock plus this VM's offset"),
    Rule(0x009420, 0x009423, E, "timer_alarm", "alarms of this VM"),
    Rule(
        0x00D000,
        0x00EFFF,
        E,
        OVERLAY,
        "GPIO lines, fan and common clock: as the board has them until written",
    ),
    Rule(0x020000, 0x020FFF, E, OVERLAY, "the real temperature, thresholds of this VM"),
    Rule(0x021000, 0x021FFF, F, CHIP, "fuses: facts about the chip"),
    Rule(0x021000, 0x021003, E, OVERLAY, "gate of the fuses: open for everyone, the guest's switch is kept"),
    Rule(0x022000, 0x022FFF, F, CHIP, "unit counts and disable masks: facts about the chip"),
    Rule(0x022400, 0x022403, E, OVERLAY, "gate of the fuses, likewise"),
    Rule(0x022438, 0x02243B, E, "partitions", "memory controllers over which the VM's share is spread"),
    Rule(0x040000, 0x045FFF, E, PRIVATE, "PBDMA set-up; what stopped this VM's channels is shown here"),
    Rule(0x040108, 0x04010B, E, "event", "PBDMA errors of this VM's channels", 3, 0x2000),
    Rule(0x070000, 0x07001F, F, "flush", "write flush: harmless, and what orders the guest's writes"),
    Rule(0x088000, 0x088FFF, E, "pci", "mirror of this function's own config space"),
    Rule(0x08A000, 0x08CFFF, E, PRIVATE, "PCIe link control"),
    Rule(0x100000, 0x100FFF, E, OVERLAY, "memory controller set-up is done once by the aggregator"),
    Rule(0x100C10, 0x100C1F, E, PRIVATE, "bus addresses that the chip would write to"),
    Rule(
        0x100C80,
        0x100C83,
        F,
        "tlb_status",
        "TLB flush status; large pages stay 128 KiB, as everyone has them",
    ),
    Rule(0x100CB8, 0x100CBB, E, PRIVATE, "page directory of the next flush"),
    Rule(0x100CBC, 0x100CBF, T, "tlb_flush", "shadows are rebuilt, then the shadow directory is flushed"),
    Rule(0x101000, 0x101FFF, F, CHIP, "straps: facts about the board"),
    Rule(
        0x104000,
        0x104FFF,
        E,
        PRIVATE,
        "PCOPY0 microcontroller: the aggregator's runs, the guest's upload is kept",
    ),
    Rule(0x105000, 0x105FFF, E, PRIVATE, "PCOPY1 microcontroller, likewise"),
    Rule(
        0x104050,
        0x104057,
        E,
        "copy_instance",
        "instance blocks of this VM only; PFIFO gives the engine the shadow",
    ),
    Rule(
        0x105050,
        0x105057,
        E,
        "copy_instance",
        "instance blocks of this VM only; PFIFO gives the engine the shadow",
    ),
    Rule(0x104108, 0x10410B, F, CHIP, "microcontroller memory sizes"),
    Rule(0x10412C, 0x10412F, F, CHIP, "microcontroller version"),
    Rule(0x105108, 0x10510B, F, CHIP, "microcontroller memory sizes"),
    Rule(0x10512C, 0x10512F, F, CHIP, "microcontroller version"),
    Rule(0x10A000, 0x10AFFF, E, PRIVATE, "PMU: the guest's upload is kept, its boot handshake answered"),
    Rule(0x10A100, 0x10A103, E, "pmu_start", "boot handshake"),
    Rule(0x10A108, 0x10A10B, F, CHIP, "microcontroller memory sizes"),
    Rule(0x10A12C, 0x10A12F, F, CHIP, "microcontroller version"),
    Rule(0x10A4A0, 0x10A4A3, E, "pmu_send", "messages to the PMU are taken at once, and nothing is done"),
    Rule(0x10F000, 0x10FFFF, E, OVERLAY, "memory training is done once, not by guests"),
    Rule(0x10F20C, 0x10F20F, E, "partition_size", "the VM's share of video memory"),
    Rule(0x110000, 0x11FFFF, E, OVERLAY, "memory partitions: trained once, not by guests"),
    Rule(0x11020C, 0x11020F, E, "partition_size", "the VM's share of video memory", 16, 0x1000),
    Rule(0x120000, 0x12FFFF, E, OVERLAY, "register ring set-up is done once by the aggregator"),
    Rule(0x121C4C, 0x121C4F, E, "idle", "acknowledgements of the ring are taken at once"),
    Rule(0x121C74, 0x121C77, E, "partitions", "memory controllers over which the VM's share is spread"),
    Rule(0x130000, 0x13FFFF, E, OVERLAY, "clocks are the aggregator's"),
    Rule(0x140000, 0x17FFFF, E, OVERLAY, "second-level cache set-up and its tag memory are the aggregator's"),
    Rule(0x300000, 0x3FFFFF, F, CHIP, "VBIOS image: the same for everyone"),
    Rule(0x400000, 0x40FFFF, E, PRIVATE, "PGRAPH was brought up once; each guest's own bring-up is kept"),
    Rule(0x400100, 0x400103, E, "event", "PGRAPH interrupts of this VM's channels"),
    Rule(0x400108, 0x40010B, E, "acknowledge", "PGRAPH traps of this VM's channels"),
    Rule(0x40060C, 0x40060F, E, "idle", "always between two of the guest's method lists"),
    Rule(0x400700, 0x400703, E, "graph_status", "busy while this VM's own work runs"),
    Rule(0x409000, 0x409003, E, "fecs_wake", "context-switch microcontroller of this VM: context saved"),
    Rule(0x409100, 0x409103, E, "fecs_start", "context-switch microcontroller of this VM: boot handshake"),
    Rule(
        0x409504,
        0x409507,
        E,
        "fecs_command",
        "instance blocks of this VM only; PFIFO gives the engine the shadow",
    ),
    Rule(0x404170, 0x404173, E, "power_mode", "the change is over when the write returned"),
    Rule(0x409108, 0x40910B, F, CHIP, "microcontroller memory sizes"),
    Rule(0x40912C, 0x40912F, F, CHIP, "microcontroller version"),
    Rule(0x409C20, 0x409C23, E, "fecs_intr_clear", "errors of this VM's context switches"),
    Rule(0x409604, 0x409607, F, CHIP, "unit counts"),
    Rule(0x409820, 0x40983F, E, "fecs_set", "scratch bits set"),
    Rule(0x409840, 0x40985F, E, "fecs_clear", "scratch bits cleared"),
    Rule(0x410000, 0x41FFFF, E, PRIVATE, "all GPCs at once: brought up by the aggregator"),
    Rule(0x500000, 0x5FFFFF, E, PRIVATE, "GPC set-up; traps of this VM's kernels are shown here"),
    Rule(0x502608, 0x50260B, F, CHIP, "multiprocessors of each cluster", 32, 0x8000),
    Rule(0x600000, 0x6FFFFF, D, "denied", "the display belongs to nobody's VM"),
    Rule(0x601000, 0x601FFF, E, PRIVATE, "VGA registers that drivers unlock at start"),
    Rule(0x700000, 0x7FFFFF, T, "pramin", "the VM's own video memory through its own window"),
)


def frozen(size: int) -> list[list[Rule | None]]:
    """The policy by page of BAR0 and word: pages without a boundary in them share one list."""
    uniform: dict[int, list[Rule | None]] = {}
    pages: list[list[Rule | None]] = []
    by_page: dict[int, list[tuple[int, int, Rule]]] = {}
    for rule in POLICY:
        for first, last in rule.ranges():
            for page in range(first >> PAGE_SHIFT, (min(last, size - 1) >> PAGE_SHIFT) + 1):
                by_page.setdefault(page, []).append((first, last, rule))
    for page in range(size >> PAGE_SHIFT):
        start, end = page << PAGE_SHIFT, (page + 1) << PAGE_SHIFT
        covering: Rule | None = None
        words: list[Rule | None] | None = None
        for first, last, rule in by_page.get(page, ()):
            if first <= start and last >= end - 1:
                covering, words = rule, None
                continue
            if words is None:
                words = [covering] * PAGE_WORDS
            for word in range(max(first, start) - start >> 2, (min(last, end - 1) - start >> 2) + 1):
                words[word] = rule
        if words is None:
            words = uniform.setdefault(id(covering), [covering] * PAGE_WORDS)
        pages.append(words)
    return pages


def rule_at(offset: int) -> Rule | None:
    """The rule that governs a BAR0 offset, None if no row lists it."""
    found = None
    for rule in POLICY:
        if any(first <= offset <= last for first, last in rule.ranges()):
            found = rule
    return found


def as_markdown() -> str:
    """The policy as the table that `docs/hypervisor.md` shows."""
    lines = ["| registers | action | why |", "|---|---|---|"]
    for rule in POLICY:
        where = f"{rule.first:06x}" if rule.last - rule.first < 4 else f"{rule.first:06x}-{rule.last:06x}"
        if rule.count > 1:
            where += f" + {rule.stride:x} * (0 to {rule.count - 1})"
        lines.append(f"| {where} | {rule.action.value} | {rule.why} |")
    return "\n".join(lines) + "\n"
