"""The call device of a para-virtual GPU: the shared core of virtual GPUs plus one BAR through which the guest's
driver asks the hypervisor. The modes say which operations it offers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from gpuvm.hypervisor.full import FullGpu, Grant
from gpuvm.paravirt.abi import (
    ARGUMENT_LAYOUTS,
    ARGUMENTS,
    CALL_BAR,
    CALL_BAR_SIZE,
    OPERATIONS,
    RESULT_LAYOUTS,
    SIGNATURE,
    SLOT_SIZE,
    SLOTS,
    VERSION,
    Op,
    Register,
    Result,
)
from gpuvm.pci.device import Bar
from gpuvm.pci.memory import DmaError

if TYPE_CHECKING:
    from gpuvm.hypervisor.aggregator import Aggregator

Handler = Callable[[bytes], "tuple[int, ...]"]


class Refused(Exception):
    """A call that ends with a result other than OK; `answer` is what the guest gets all the same."""

    def __init__(self, result: Result, answer: tuple[int, ...] = ()) -> None:
        super().__init__(result.name)
        self.result = result
        self.answer = answer


def arguments(op: Op, data: bytes) -> tuple[int, ...]:
    """Unpack the arguments of an operation."""
    layout = ARGUMENT_LAYOUTS[op]
    if len(data) < layout.size:
        raise Refused(Result.BAD_ARGUMENT)
    return layout.unpack_from(data)


def array(op: Op, data: bytes, count: int, limit: int) -> npt.NDArray[np.uint64]:
    """Return the 64-bit words behind the arguments: `count` elements, at most `limit`."""
    start, words = ARGUMENT_LAYOUTS[op].size, OPERATIONS[op].array_words * count
    if not 0 < count <= limit or start + 8 * words > len(data):
        raise Refused(Result.BAD_ARGUMENT)
    return np.frombuffer(data, np.uint64, words, start)


class CallGpu(FullGpu):
    """A virtual GPU for a driver that knows the hypervisor.

    Attributes
    ----------
    operations : frozenset of Op
        What this mode offers. Operation X is the method `_x`: it gets the copied arguments, returns its
        results, and raises `Refused`, having changed nothing.
    """

    own_bars: Sequence[Bar] = (Bar(CALL_BAR, CALL_BAR_SIZE),)
    operations: ClassVar[frozenset[Op]] = frozenset()

    def __init__(self, aggregator: Aggregator, number: int, name: str, grant: Grant) -> None:
        super().__init__(aggregator, number, name, grant)
        self._area = 0
        self._offered = sum(1 << op for op in self.operations)
        self._handlers: dict[int, tuple[str, Handler]] = {
            op: (f"calls_{op.name.lower()}", getattr(self, f"_{op.name.lower()}")) for op in self.operations
        }

    def _stop_all(self) -> bool:
        self._area = 0
        return super()._stop_all()

    # What full virtualization reads out of the guest's memory, a para-virtual driver says

    def _shadow_bar(self, index: int) -> None:
        """An instance block of a BAR says nothing here."""

    def write_tlb_flush(self, offset: int, value: int) -> None:
        self.engines.words[offset >> 2] = value

    # Registers

    def _read_own(self, bar: int, offset: int, size: int) -> int:
        if bar != CALL_BAR:
            return 0
        self.counters.traps_call += 1
        if size != 4:
            return 0
        if offset == Register.SIGNATURE:
            return SIGNATURE
        if offset == Register.VERSION:
            return VERSION
        if offset in (Register.OPERATIONS_LOW, Register.OPERATIONS_HIGH):
            return self._offered >> 8 * (offset - Register.OPERATIONS_LOW) & 0xFFFFFFFF
        if offset in (Register.AREA_LOW, Register.AREA_HIGH):
            return self._area >> 8 * (offset - Register.AREA_LOW) & 0xFFFFFFFF
        return SLOTS if offset == Register.SLOTS else 0

    def _write_own(self, bar: int, offset: int, size: int, value: int) -> None:
        if bar != CALL_BAR:
            return
        self.counters.traps_call += 1
        if size == 4 and not self._gone:
            self._write_register(offset, value)

    def _write_register(self, offset: int, value: int) -> None:
        if offset == Register.CALL:
            self._call(value)
        elif offset == Register.AREA_LOW:
            self._area = self._area >> 32 << 32 | value & ~(SLOT_SIZE - 1)
        elif offset == Register.AREA_HIGH:
            self._area = self._area & 0xFFFFFFFF | (value & 0xFF) << 32

    # Calls

    def _call(self, slot: int) -> None:
        """Perform the call in a slot. The slot is copied first: what the guest changes meanwhile is not
        seen."""
        bus = self.memory.bus
        at = self._area + slot * SLOT_SIZE
        try:
            if not self._area or slot >= SLOTS:
                raise DmaError(at)
            record = bus.read(at, SLOT_SIZE)
        except DmaError:
            self.counters.call_failures += 1
            return
        number = int.from_bytes(record[:4], "little")
        try:
            answer = self._perform(number, record[ARGUMENTS:])
            result = Result.OK
        except Refused as refused:
            result, answer = refused.result, refused.answer
            self.counters.call_failures += 1
        try:
            if answer:
                bus.write(at + ARGUMENTS, RESULT_LAYOUTS[Op(number)].pack(*answer))
            bus.write(at, result.to_bytes(4, "little"))
        except DmaError:
            # The machine's memory went away under the call.
            self.counters.call_failures += 1

    def _perform(self, number: int, data: bytes) -> tuple[int, ...]:
        """Perform one operation on a copy of its arguments; returns its results."""
        known = self._handlers.get(number)
        if known is None:
            raise Refused(Result.UNKNOWN_OPERATION)
        name, handler = known
        setattr(self.counters, name, getattr(self.counters, name) + 1)
        return handler(data)
