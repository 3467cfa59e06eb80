"""PFIFO: channel table, playlist, kicks, faults and non-stalling interrupts; PSUBFIFO: what a PBDMA tells the
driver.

rnndb fifo/gf100_pfifo.xml. Registers only: channels are run by `gpuvm.gpu.runner` on its own thread.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, ClassVar

from gpuvm.gpu import pmc
from gpuvm.gpu.channel import Channel, Stop
from gpuvm.gpu.engine import Engine
from gpuvm.gpu.paging import MmuFault, Reason
from gpuvm.registers.access import RW, W1C, R
from gpuvm.registers.declare import Block, Field, Register, Scratch, bit

if TYPE_CHECKING:
    from gpuvm.gpu.device import Gf100

CHANNELS = 128
ENGINES = 6
FAULT_UNITS = 32

INTR_PLAYLIST, INTR_VM_FAULT, INTR_SUBFIFO, INTR_RUNLIST, INTR_ENGINE = (
    1 << 8,
    1 << 28,
    1 << 29,
    1 << 30,
    1 << 31,
)
_LEVEL = INTR_VM_FAULT | INTR_SUBFIFO | INTR_RUNLIST | INTR_ENGINE
RUNLIST_EVENT = 1 << 28
ENGINE_TIMEOUT = 0x0A
KICK_PENDING = 1 << 20
ENG_STATE_STUCK = 1 << 31 | 1 << 28 | 1 << 18 | 1 << 14 | 1 << 12
"""What ENG_STATE shows of an engine that does not switch: busy and waiting, as any nouveau reads it."""
INJECT_VALID = 1 << 8

PFIFO = Block(
    "PFIFO",
    0x002000,
    0x2000,
    (
        Register(0x100, "INTR", W1C, doc="bits 28 to 31 follow the registers that cause them"),
        Register(0x140, "INTR_EN"),
        Register(0x200, "CTRL", fields=(bit("ENABLE", 0), Field("UNK4", 4, 7), Field("UNK8", 8, 9)), reset=1),
        Register(0x204, "SUBFIFO_ENABLE", fields=(Field("SUBFIFOS", 0, 2),), reset=7),
        Register(0x208, "ENG_SUBFIFO_MASK", count=ENGINES, doc="a 0 bit lets that PBDMA serve the engine"),
        Register(0x248, "NOSNOOP_REFRESH"),
        Register(0x24C, "HIDDEN_CHANNEL"),
        Register(0x250, "ACQ_PRETEST"),
        Register(
            0x254,
            "BAR1_BASE",
            fields=(Field("ADDR", 0, 27), bit("ENABLE", 28)),
            doc="poll area in BAR1 >> 12",
        ),
        Register(0x258, "IDLE_FILTER"),
        Register(0x260, "CTXSW_INTERVAL"),
        Register(0x270, "PLAYLIST_WR", fields=(Field("ADDRESS", 0, 27), Field("TARGET", 28, 29))),
        Register(
            0x274, "PLAYLIST_WR_LEN", fields=(Field("LEN", 0, 11), Field("UNK20", 20, 24)), doc="triggers"
        ),
        Register(0x278, "PLAYLIST_RD", R),
        Register(0x27C, "PLAYLIST_RD_LEN", R, doc="bit 20 busy: never seen set here"),
        Register(0x310, "ENG_RAMFC_UNKF8", count=16),
        Register(0x350, "ENG_RAMFC_UNKFC", count=16),
        Register(0x390, "SUBFIFO_ENGINE", R, count=3, reset=0x1F),
        Register(0x3E0, "LB_GPBUF_CONTROL", count=16, stride=8),
        Register(0x3E4, "LB_PBBUF_CONTROL", count=16, stride=8),
        Register(0x528, "INTR_EN_NRHOST"),
        Register(0x52C, "CHAN_TABLE_ERROR", R),
        Register(0x530, "INTR_HALT_MASK"),
        Register(0x54C, "PLAYLIST_INTR", R),
        Register(0x56C, "INTR_CHSW_ERROR", R),
        Register(0x58C, "INTR24_SOURCE", R),
        Register(0x59C, "VM_FAULT_SOURCE", W1C, doc="fault units with something in VM_FAULT"),
        Register(0x5A0, "SUBFIFO_INTR_SOURCE", R, doc="PBDMAs whose INTR & INTR_EN is not 0"),
        Register(0x5A4, "ENGINE_INTR_SOURCE", R),
        Register(0x5A8, "ENGINE_INTR", W1C, count=16),
        Register(0x628, "ENGINE_INTR_ENABLE"),
        Register(0x62C, "ENG_FAULT", W1C, doc="engines stopped by a fault"),
        Register(0x630, "ENG_FREEZE"),
        Register(0x634, "KICK_CHID", doc="takes a channel off its PBDMA; bit 20 while it is still there"),
        Register(0x638, "FREEZE"),
        Register(0x63C, "SCHED_STATUS", R),
        Register(0x640, "ENG_STATE", R, count=ENGINES, doc="bits 0-6 channel, bit 28 busy"),
        Register(0x800, "VM_FAULT_CHAN", R, count=FAULT_UNITS, stride=0x10, doc="instance block >> 12"),
        Register(0x804, "VM_FAULT_ADDR_LOW", R, count=FAULT_UNITS, stride=0x10),
        Register(0x808, "VM_FAULT_ADDR_HIGH", R, count=FAULT_UNITS, stride=0x10),
        Register(0x80C, "VM_FAULT_FLAGS", R, count=FAULT_UNITS, stride=0x10),
        Register(0xA00, "INTR_RUNLIST", W1C),
        Register(0xA04, "FB_TIMEOUT"),
        Register(0xA08, "PB_TIMEOUT"),
        Register(0xA0C, "ENG_TIMEOUT"),
        Register(0xA18, "CHSW_TIMEOUT"),
        Register(0xA1C, "USERD_SNOOP"),
        Register(0xA20, "PRI_TIMEOUT"),
        Register(0xA24, "EVENT_ARB"),
        Register(0xA28, "CHSW_CTL"),
        Register(
            0xA30,
            "VM_FAULT_INJECT",
            fields=(Field("ENGINE", 0, 4), bit("VALID", 8)),
            count=8,
            doc="faults the channel that an engine is stuck on, in that fault unit",
        ),
        Register(
            0x1000,
            "CHAN_TABLE_CHAN",
            fields=(Field("INST", 0, 27), Field("TARGET", 28, 29), bit("POLL_ENABLE", 30), bit("VALID", 31)),
            count=CHANNELS,
            stride=8,
        ),
        Register(0x1004, "CHAN_TABLE_STATE", RW, count=CHANNELS, stride=8, doc="bit 0 lets the channel run"),
    ),
    doc="Channel scheduling",
)

PSUBFIFO = Block(
    "PSUBFIFO",
    0x040000,
    0x200,
    (
        Register(
            0xC0,
            "CACHE_ADDR",
            doc="method of the interrupt: offset, subchannel in bits 16-18, valid in bit 31",
        ),
        Register(0xC4, "CACHE_DATA"),
        Register(0x108, "INTR", W1C),
        Register(0x10C, "INTR_EN"),
        Register(0x120, "CH", R, doc="channel in bits 0-6, active in bit 8"),
        Register(0x13C, "INTR_HALT_MASK"),
    ),
    (Scratch(0x00, 0x1FC, "state of the channel that is loaded, shown to debuggers"),),
    count=3,
    stride=0x2000,
    doc="PBDMAs",
)


class Pfifo(Engine):
    """Keeps the channel table and the playlist; raises what the runner reports."""

    BLOCKS: ClassVar = (PFIFO,)

    def __init__(self, gpu: Gf100) -> None:
        super().__init__(gpu)
        self.channels: list[Channel | None] = [None] * CHANNELS
        self.playlist: list[int] = []
        self._faults: dict[int, deque[tuple[int, int, int]]] = {}
        self._timed_out = -1
        self.poll_base = -1
        """Offset in BAR1 of channel 0's page of the poll area, -1 where there is none."""

    def place(self) -> None:
        super().place()
        at = self.at
        self._intr, self._intr_en = at("PFIFO", "INTR"), at("PFIFO", "INTR_EN")
        self._fault_source = at("PFIFO", "VM_FAULT_SOURCE")
        self._engine_intr = at("PFIFO", "ENGINE_INTR")
        self._runlist = at("PFIFO", "INTR_RUNLIST")
        self._state = at("PFIFO", "CHAN_TABLE_STATE")
        self._fault = at("PFIFO", "VM_FAULT_CHAN")

    # Interrupts

    def _status(self) -> int:
        words = self.words
        status = words[self._intr] & ~_LEVEL
        status |= INTR_VM_FAULT if words[self._fault_source] else 0
        status |= INTR_SUBFIFO if self.gpu.psubfifo.source() else 0
        status |= INTR_RUNLIST if words[self._runlist] else 0
        status |= INTR_ENGINE if self._engine_source() else 0
        return status

    def _engine_source(self) -> int:
        return sum(1 << unit for unit in range(16) if self.words[self._engine_intr + unit])

    def update(self) -> None:
        """Recompute this engine's line."""
        self.gpu.pmc.line(pmc.INTR_PFIFO, bool(self._status() & self.words[self._intr_en]))

    def read_intr(self) -> int:
        return self._status()

    def write_intr(self, value: int) -> None:
        self.update()

    def write_intr_en(self, value: int) -> None:
        self.update()

    def read_subfifo_intr_source(self) -> int:
        return self.gpu.psubfifo.source()

    def read_engine_intr_source(self) -> int:
        return self._engine_source()

    def write_engine_intr(self, index: int, value: int) -> None:
        self.update()

    def write_intr_runlist(self, value: int) -> None:
        self.update()

    def non_stall(self, engine: int) -> None:
        """Raise the non-stalling interrupt of a FIFO engine (from the engine thread)."""
        with self.gpu.locked():
            self.words[self._engine_intr + engine] |= 1
            self.update()

    def engine_timeout(self, channel: Channel) -> None:
        """Report that PGRAPH does not switch away from `channel`: INTR.PLAYLIST, its code and ENG_STATE name
        it.
        """
        with self.gpu.locked():
            self._timed_out = channel.number
            self.words[self.at("PFIFO", "PLAYLIST_INTR")] = ENGINE_TIMEOUT
            self.words[self._intr] |= INTR_PLAYLIST
            self.update()
        self.gpu.notify_error(channel)

    # Faults

    def channel_fault(
        self, channel: Channel, unit: int, fault: MmuFault, client: int, cluster: int | None
    ) -> None:
        """Report a fault of a channel that the caller has stopped."""
        self.report_fault(unit, channel.instance, fault, client, cluster)
        self.gpu.notify_error(channel)

    def report_fault(
        self, unit: int, instance: int, fault: MmuFault, client: int, cluster: int | None
    ) -> None:
        """Show a fault in VM_FAULT; one that comes before the last was read waits behind it.

        Parameters
        ----------
        client : int
            Client number; of the hub where `cluster` is None, else of that graphics cluster.
        """
        flags = int(fault.reason) | (0x80 if fault.write else 0) | client << 8
        flags |= 0x40 if cluster is None else cluster << 24
        with self.gpu.locked():
            waiting = self._faults.setdefault(unit, deque(maxlen=CHANNELS))
            waiting.append((instance >> 12, fault.address, flags))
            if not self.words[self._fault_source] & 1 << unit:
                self._show_fault(unit)
            self.update()

    def write_vm_fault_inject(self, index: int, value: int) -> None:
        """Recovery from a timeout: the driver asks for a fault, and finds the channel in ENG_STATE."""
        channel = self.channels[self._timed_out] if self._timed_out >= 0 else self.gpu.runner.current
        if value & INJECT_VALID and channel is not None:
            fault = MmuFault(0, False, Reason.PT_NOT_PRESENT)
            self.report_fault(value & 0x1F, channel.instance, fault, 0, None)

    def forget_timeout(self, channel: Channel | None = None) -> None:
        """The engine is no longer stuck: it was reset, or its channel is gone."""
        if channel is None or channel.number == self._timed_out:
            self._timed_out = -1

    def _show_fault(self, unit: int) -> None:
        waiting = self._faults.get(unit)
        if not waiting:
            return
        instance, address, flags = waiting.popleft()
        base, words = self._fault + 4 * unit, self.words
        words[base], words[base + 1], words[base + 2], words[base + 3] = (
            instance,
            address & 0xFFFFFFFF,
            address >> 32,
            flags,
        )
        words[self._fault_source] |= 1 << unit

    def write_vm_fault_source(self, value: int) -> None:
        for unit in range(FAULT_UNITS):
            if value & 1 << unit:
                self._show_fault(unit)
        self.update()

    # Channel table

    def write_chan_table_chan(self, index: int, value: int) -> None:
        old = self.channels[index]
        instance, target = (value & 0x0FFFFFFF) << 12, value >> 28 & 3
        if not value & 1 << 31:
            self.channels[index] = None
            if old is not None:
                self.gpu.runner.discard(old)
            return
        if old is not None and old.instance == instance and old.target == target and old.stop is None:
            return
        if old is not None:
            self.gpu.runner.discard(old)
        channel = Channel(index, self.gpu.memory, target, instance, self.gpu.mmu.acquire(target, instance))
        channel.enabled = bool(self.words[self._state + 2 * index] & 1)
        channel.scheduled = index in self.playlist
        self.channels[index] = channel
        self.gpu.runner.ring(index)

    def write_chan_table_state(self, index: int, value: int) -> None:
        channel = self.channels[index]
        if channel is not None:
            channel.enabled = bool(value & 1)
            if channel.enabled:
                self.gpu.runner.ring(index)

    # Playlist

    def write_playlist_wr_len(self, value: int) -> None:
        where = self.words[self.at("PFIFO", "PLAYLIST_WR")]
        length = min(value & 0xFFF, 512)
        data = self.gpu.memory.read(where >> 28 & 3, (where & 0x0FFFFFFF) << 12, 8 * length)
        wanted = dict.fromkeys(
            number
            for number in (int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 8))
            if number < CHANNELS
        )
        self.playlist = list(wanted)
        for number, channel in enumerate(self.channels):
            if channel is not None:
                leaves = channel.scheduled and number not in wanted
                channel.scheduled = number in wanted
                if leaves:
                    self.gpu.runner.kick(channel)
        self.words[self.at("PFIFO", "PLAYLIST_RD")] = where
        self.words[self.at("PFIFO", "PLAYLIST_RD_LEN")] = value & 0xFFF
        self.words[self._runlist] |= RUNLIST_EVENT
        self.update()
        self.gpu.runner.wake()

    # Kick

    def write_kick_chid(self, value: int) -> None:
        channel = self.channels[value & 0x7F]
        if channel is not None:
            self.gpu.runner.kick(channel)

    def read_kick_chid(self) -> int:
        value = self.words[self.at("PFIFO", "KICK_CHID")] & 0x7F
        channel = self.channels[value]
        return value | (KICK_PENDING if channel is not None and channel.kicked else 0)

    # State shown

    def write_bar1_base(self, value: int) -> None:
        self.poll_base = (value & 0x0FFFFFFF) << 12 if value & 1 << 28 else -1

    def read_eng_state(self, index: int) -> int:
        if index == 0 and self._timed_out >= 0:
            return ENG_STATE_STUCK | self._timed_out
        channel = self.gpu.runner.current
        return channel.number | 1 << 28 if channel is not None and index == 0 and self.gpu.pgraph.busy else 0

    def doorbell(self, offset: int) -> None:
        """Take a write of GP_PUT at `offset` from the poll area's start."""
        number = offset >> 12
        if number < CHANNELS:
            self.gpu.runner.ring(number)

    def reset(self) -> None:
        for number, channel in enumerate(self.channels):
            if channel is not None:
                self.channels[number] = None
                self.gpu.runner.discard(channel)
        self.playlist = []
        self._faults.clear()
        self.poll_base = -1
        self._timed_out = -1
        super().reset()
        self.update()


class Psubfifo(Engine):
    """Shows a PBDMA's error or software method; the channel goes on once the driver acknowledged it."""

    BLOCKS: ClassVar = (PSUBFIFO,)

    def __init__(self, gpu: Gf100) -> None:
        super().__init__(gpu)
        self._owner: list[Channel | None] = [None] * PSUBFIFO.count
        self._waiting: list[deque[tuple[Channel, int, int, int]]] = [deque() for _ in range(PSUBFIFO.count)]

    def source(self) -> int:
        """PBDMAs whose interrupt is pending and let through."""
        pending = 0
        for unit in range(PSUBFIFO.count):
            if self.words[self._at("INTR", unit)] & self.words[self._at("INTR_EN", unit)]:
                pending |= 1 << unit
        return pending

    def _at(self, register: str, unit: int) -> int:
        return self.at("PSUBFIFO", register, unit)

    def interrupt(self, channel: Channel, bit: int, method: int, subchannel: int, data: int) -> None:
        """Report a method that the PBDMA cannot carry out; the channel waits for the driver's
        acknowledgement.
        """
        unit = 0
        address = 1 << 31 | subchannel << 16 | method | 1
        with self.gpu.locked():
            channel.waiting = True
            self._waiting[unit].append((channel, bit, address, data))
            if self._owner[unit] is None:
                self._show(unit)
            self.gpu.pfifo.update()
        if channel.stop is Stop.PUSHBUFFER:
            self.gpu.notify_error(channel)

    def _show(self, unit: int) -> None:
        if not self._waiting[unit]:
            self._owner[unit] = None
            return
        channel, bit, address, data = self._waiting[unit].popleft()
        self._owner[unit] = channel
        self.words[self._at("CACHE_ADDR", unit)] = address
        self.words[self._at("CACHE_DATA", unit)] = data
        self.words[self._at("CH", unit)] = channel.number | 1 << 8
        self.words[self._at("INTR", unit)] |= bit

    def write_intr(self, index: int, value: int) -> None:
        channel = self._owner[index]
        if channel is not None and not self.words[self._at("INTR", index)]:
            channel.waiting = False
            self._owner[index] = None
            self._show(index)
            self.gpu.runner.ring(channel.number)
        self.gpu.pfifo.update()

    def write_intr_en(self, index: int, value: int) -> None:
        self.gpu.pfifo.update()

    def forget(self, channel: Channel) -> None:
        """Drop what a channel that is gone still had to say."""
        for unit in range(PSUBFIFO.count):
            kept = [each for each in self._waiting[unit] if each[0] is not channel]
            self._waiting[unit] = deque(kept)
            if self._owner[unit] is channel:
                self.words[self._at("INTR", unit)] = 0
                self._show(unit)

    def reset(self) -> None:
        self._owner = [None] * PSUBFIFO.count
        self._waiting = [deque() for _ in range(PSUBFIFO.count)]
        super().reset()
