"""The PBDMA: fetches GPFIFO entries, decodes pushbuffer headers and hands methods to the host or to bound
objects.

Header and entry formats: class 0x906f, rnndb fifo/nv_object.xml. A segment in progress can be left at any
method and taken up again, so a channel that waits, or that has had its turn, keeps no one else from running.
"""

from __future__ import annotations

import enum
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from gpuvm.gpu.channel import Channel, Stop
from gpuvm.gpu.classes.host import HostMethods, Park
from gpuvm.gpu.classes.macro import MacroTrap
from gpuvm.gpu.classes.method import Illegal, Rejected, Switched
from gpuvm.gpu.paging import MmuFault

if TYPE_CHECKING:
    from gpuvm.gpu.device import Gf100

log = structlog.get_logger(__name__)

SLICE_S = 0.01
"""Seconds that a channel may have methods decoded before another one gets its turn."""

_INCREASE, _KEEP, _ONCE = 1, 0, 2

HUB_CLIENT_PFIFO, HUB_CLIENT_DISPATCH = 6, 4
UNIT_PGRAPH, UNIT_PSUBFIFO0, UNIT_PCOPY0 = 0x00, 0x07, 0x15
"""Fault units (rnndb GF100_VM_ENGINE) and clients."""

INTR_IB_PUT_OVERFLOW, INTR_IB_ENTRY_INVALID, INTR_ILLEGAL_CMD = 1 << 14, 1 << 15, 1 << 18
INTR_ILLEGAL_MTHD, INTR_SW_MTHD, INTR_ILLEGAL_SEM, INTR_SEM_TIMEOUT = 1 << 21, 1 << 23, 1 << 25, 1 << 26
"""PSUBFIFO.INTR."""


class Turn(enum.Enum):
    """How a channel's turn ended."""

    MORE = enum.auto()
    SWITCHED = enum.auto()
    IDLE = enum.auto()
    PARKED = enum.auto()
    WAITING = enum.auto()
    STOPPED = enum.auto()


class HostError(Exception):
    """Something that PSUBFIFO.INTR reports; the value is its bit."""

    def __init__(self, bit: int) -> None:
        super().__init__(bit)
        self.bit = bit


class Pusher:
    """Runs one channel for one turn: one GPFIFO segment, or `SLICE_S` of it."""

    def __init__(self, gpu: Gf100) -> None:
        self._gpu = gpu
        self._host = HostMethods(gpu)

    def turn(self, channel: Channel) -> Turn:
        """Run `channel`; every guest error ends as a GPU error here."""
        try:
            if channel.words is None and not self._fetch(channel):
                return Turn.IDLE
            turn = self._decode(channel)
            channel.waits_since = 0.0
            return turn
        except Park:
            return self._wait(channel)
        except MmuFault as fault:
            channel.stop = Stop.MMU_FAULT
            self._gpu.pfifo.channel_fault(channel, UNIT_PSUBFIFO0, fault, HUB_CLIENT_PFIFO, None)
            return Turn.STOPPED
        except HostError as error:
            channel.stop = Stop.PUSHBUFFER
            self._gpu.psubfifo.interrupt(channel, error.bit, channel.method, channel.subchannel, 0)
            return Turn.STOPPED
        except Exception:
            # A defect of this program costs the channel that met it, as a hung engine would.
            log.exception("internal error in a channel", channel=channel.number, method=channel.method)
            channel.stop = Stop.TIMEOUT
            self._gpu.pfifo.engine_timeout(channel)
            return Turn.STOPPED

    def _wait(self, channel: Channel) -> Turn:
        """The channel waits for a semaphore, but not longer than its instance block allows."""
        now = monotonic()
        limit = channel.acquire_limit_s
        if not channel.waits_since:
            channel.waits_since = now
        if limit is None or now - channel.waits_since < limit:
            return Turn.PARKED
        channel.waits_since = 0.0
        self._gpu.psubfifo.interrupt(
            channel, INTR_SEM_TIMEOUT, channel.method, channel.subchannel, channel.semaphore_sequence
        )
        return Turn.WAITING

    def _fetch(self, channel: Channel) -> bool:
        """Take the next GPFIFO entry; False if there is none."""
        channel.ready = False
        put = channel.put()
        if put >= channel.ib_entries:
            raise HostError(INTR_IB_PUT_OVERFLOW)
        if put == channel.get:
            return False
        channel.ready = True
        channel.progressed = True
        entry = channel.ib + 8 * channel.get
        low, high = channel.space.read32(entry), channel.space.read32(entry + 4)
        length = high >> 10 & 0x1FFFFF
        if length == 0:
            if high & 0xFF:
                raise HostError(INTR_IB_ENTRY_INVALID)
            channel.words = memoryview(b"").cast("I")
        else:
            address = (low & ~3) | (high & 0xFF) << 32
            data = channel.space.read(address, 4 * length)
            channel.dma_get = address + 4 * length
            channel.words = memoryview(data).cast("I")
        # A method may take its data from the next segment: that is how parameters come straight from memory.
        channel.position = 0
        return True

    def _decode(self, channel: Channel) -> Turn:
        words = channel.words
        assert words is not None
        end = len(words)
        self._deadline = monotonic() + SLICE_S
        if channel.slice_end:
            self._deadline = min(self._deadline, channel.slice_end * 1e-9)
        steps = 0
        while True:
            while channel.count and channel.position < end:
                turn = self._data(channel, words)
                if turn is not None:
                    return turn
                steps += 1
                if not steps & 0xF and monotonic() > self._deadline:
                    return Turn.MORE
            if channel.position >= end:
                break
            steps += 1
            if not steps & 0xF and monotonic() > self._deadline:
                return Turn.MORE
            header = words[channel.position]
            channel.position += 1
            kind = header >> 29
            channel.subchannel = header >> 13 & 7
            channel.method = (header & 0x1FFF) << 2
            channel.count = header >> 16 & 0x1FFF
            if kind == 1:
                channel.step = _INCREASE
            elif kind == 3:
                channel.step = _KEEP
            elif kind == 5:
                channel.step = _ONCE
            elif kind == 4:
                value, channel.count = channel.count, 0
                turn = self._one(channel, value)
                if turn is not None:
                    return turn
            elif kind == 7:
                channel.position = end
                channel.count = 0
            elif kind == 6:
                raise HostError(INTR_ILLEGAL_CMD)
            else:
                self._old(channel, header, kind)
        channel.words = None
        channel.get = (channel.get + 1) % channel.ib_entries
        channel.show_get()
        return Turn.MORE

    def _old(self, channel: Channel, header: int, kind: int) -> None:
        """Formats of earlier chips: methods with 11 bits of count; sub-device masks do nothing on a single
        card.
        """
        channel.count = 0
        if header >> 16 & 3 == 0:
            channel.method = header & 0x1FFC
            channel.count = header >> 18 & 0x7FF
            channel.step = _INCREASE if kind == 0 else _KEEP
        elif kind == 2:
            raise HostError(INTR_ILLEGAL_CMD)

    def _one(self, channel: Channel, value: int) -> Turn | None:
        """Immediate data: one method whose operand is in the header."""
        words = memoryview(value.to_bytes(4, "little")).cast("I")
        position = channel.position
        try:
            turn = self._deliver(channel, words)
        except Park:
            channel.position = position - 1
            raise
        if turn is Turn.SWITCHED:
            channel.position = position - 1
        return turn

    def _data(self, channel: Channel, words: memoryview) -> Turn | None:
        """Hand over the data words that are there; None to go on."""
        once = channel.step == _ONCE
        taken = 1 if once or channel.method < 0x100 else min(channel.count, len(words) - channel.position)
        turn = self._deliver(channel, words[channel.position : channel.position + taken])
        taken = self._consumed
        if once and taken:
            channel.method += 4
            channel.step = _KEEP
        channel.position += taken
        channel.count -= taken
        if channel.step == _INCREASE:
            channel.method = channel.method + 4 * taken & 0x7FFC
        return turn

    _consumed = 0
    _deadline = 0.0

    def _deliver(self, channel: Channel, words: memoryview) -> Turn | None:
        method, subchannel = channel.method, channel.subchannel
        if method < 0x100:
            return self._host_method(channel, method, subchannel, words[0])
        target = channel.objects[subchannel]
        if target is None:
            self._consumed = 1
            self._gpu.psubfifo.interrupt(channel, INTR_SW_MTHD, method, subchannel, words[0])
            return Turn.WAITING
        try:
            self._consumed = len(words)
            step = 1 if channel.step == _INCREASE else 0
            self._consumed = target.submit(method, words, step, self._deadline)
        except (Illegal, Rejected) as trap:
            self._consumed = trap.consumed
            at = method + 4 * (trap.consumed - 1) if channel.step == _INCREASE else method
            at, value = trap.sent or (at, words[trap.consumed - 1])
            error = trap.error if isinstance(trap, Rejected) else None
            self._gpu.engine_error(channel, target, subchannel, at, value, error)
            return Turn.STOPPED if channel.stop is not None else Turn.WAITING
        except Switched as switch:
            self._consumed = switch.consumed
            return Turn.SWITCHED
        except MacroTrap as trap:
            self._consumed = trap.consumed
            self._gpu.pgraph.macro_trap(channel, trap.bits, trap.pc, trap.opcode)
            return Turn.WAITING
        except MmuFault as fault:
            channel.stop = Stop.MMU_FAULT
            self._gpu.engine_fault(channel, target, fault)
            return Turn.STOPPED
        return Turn.STOPPED if channel.stop is not None else None

    def _host_method(self, channel: Channel, method: int, subchannel: int, value: int) -> Turn | None:
        self._consumed = 1
        if method == 0:
            return self._bind(channel, subchannel, value)
        if not self._host.take(channel, method, value):
            bit = INTR_ILLEGAL_SEM if method == 0x1C else INTR_ILLEGAL_MTHD
            self._gpu.psubfifo.interrupt(channel, bit, method, subchannel, value)
            return Turn.WAITING
        return None

    def _bind(self, channel: Channel, subchannel: int, value: int) -> Turn | None:
        engine, number = value >> 16 & 0x1F, value & 0xFFFF
        if engine == 0x1F:
            channel.objects[subchannel] = None
            self._gpu.psubfifo.interrupt(channel, INTR_SW_MTHD, 0, subchannel, value)
            return Turn.WAITING
        known = self._gpu.classes.get((engine, number))
        if known is None:
            self._gpu.illegal_class(channel, engine, subchannel, value)
            return Turn.WAITING
        bound = channel.objects[subchannel]
        if type(bound) is not known:
            channel.objects[subchannel] = known(self._gpu, channel)
        return None
