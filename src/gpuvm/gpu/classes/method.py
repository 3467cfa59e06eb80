"""How object classes declare their methods, and how an object of a class takes them. Data first: name,
offset, kind.
"""

from __future__ import annotations

import enum
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, ClassVar

from gpuvm.gpu.classes.macro import MacroTrap

if TYPE_CHECKING:
    from gpuvm.gpu.channel import Channel
    from gpuvm.gpu.device import Gf100

METHOD_SPACE = 0x8000
"""Bytes of method space of a subchannel."""


class DataError(enum.IntEnum):
    """Codes of PGRAPH.DATA_ERROR (rnndb)."""

    INVALID_OPERATION = 0x03
    INVALID_VALUE = 0x04
    INVALID_ENUM = 0x05
    INVALID_OBJECT = 0x08
    INVALID_BITFIELD = 0x0C


class Illegal(Exception):
    """A method that the class does not have.

    Attributes
    ----------
    consumed : int
        Data words of the burst that were taken, the offending one included.
    sent : (int, int) or None
        The method and its data if a macro sent it.
    """

    consumed = 1
    sent: tuple[int, int] | None = None


class Rejected(Exception):
    """A value that a method does not take; attributes as `Illegal`."""

    consumed = 1
    sent: tuple[int, int] | None = None

    def __init__(self, error: DataError) -> None:
        super().__init__(error)
        self.error = error


class Switched(Exception):
    """The channel was switched out in the middle of a method: the object keeps how far it came, and takes the
    same data word again later."""

    consumed = 0


@dataclass(frozen=True, slots=True)
class Method:
    """One method, or `count` of them `stride` bytes apart.

    Attributes
    ----------
    trigger : bool
        Whether it does something beyond keeping its value: the class has a handler named after it.
    """

    offset: int
    name: str
    trigger: bool = False
    count: int = 1
    stride: int = 4


class MethodTable:
    """The methods of a class, looked up by offset."""

    def __init__(self, number: int, name: str, methods: Iterable[Method], *, keep_all: bool = False) -> None:
        self.number = number
        self.name = name
        self.methods = tuple(methods)
        self.keep_all = keep_all
        """Whether methods that are not listed are kept, too (classes not yet executed)."""
        self.known = bytearray(METHOD_SPACE // 4)
        self.names: dict[int, str] = {}
        for method in self.methods:
            for element in range(method.count):
                at = method.offset + element * method.stride
                if at in self.names:
                    raise ValueError(
                        f"{name}: method {method.name} must not overlap {self.names[at]}, both are at {at:#x}"
                    )
                self.names[at] = method.name if method.count == 1 else f"{method.name}[{element}]"
                self.known[at >> 2] = 1
        if keep_all:
            self.known[0x100 >> 2 :] = b"\1" * (len(self.known) - (0x100 >> 2))


class ClassObject:
    """What is bound to a subchannel: the class's state and its handlers.

    A handler `on_<name>(value)` runs when the method of that name comes; of an array it takes the index
    first. A handler `burst_<name>(words)` takes a run of data words of a method that does not increment.
    """

    TABLE: ClassVar[MethodTable]
    ENGINE: ClassVar[int] = 0

    def __init__(self, gpu: Gf100, channel: Channel) -> None:
        self.gpu = gpu
        self.channel = channel
        self.state = array("I", bytes(METHOD_SPACE))
        self.done = 0
        """Bytes of a copy that were moved before the channel was switched out; 0 if none was."""
        self._triggers: dict[int, Callable[[int], None]] = {}
        self._bursts: dict[int, Callable[[memoryview], None]] = {}
        for method in self.TABLE.methods:
            if not method.trigger:
                continue
            handler = getattr(self, f"on_{method.name.lower()}")
            burst = getattr(self, f"burst_{method.name.lower()}", None)
            for element in range(method.count):
                at = method.offset + element * method.stride
                self._triggers[at >> 2] = handler if method.count == 1 else _indexed(handler, element)
                if burst is not None:
                    self._bursts[at >> 2] = burst

    def submit(self, method: int, words: memoryview, step: int, deadline: float) -> int:
        """Take a run of data words for `method` and, where `step` is 1, the methods after it.

        Returns
        -------
        int
            Words taken: fewer than given if `deadline` (of `time.monotonic`) came after something was done.

        Raises
        ------
        Illegal, Rejected, Switched
            With `consumed` set; MmuFault passes through.
        """
        index = method >> 2
        if not step and len(words) > 1:
            burst = self._bursts.get(index)
            if burst is not None:
                burst(words)
                return len(words)
        state, known, triggers = self.state, self.TABLE.known, self._triggers
        done = 0
        try:
            for value in words:
                done += 1
                if not known[index]:
                    raise Illegal
                state[index] = value
                handler = triggers.get(index)
                if handler is not None:
                    handler(value)
                    if monotonic() > deadline:
                        break
                if step:
                    index = index + 1 & 0x1FFF
        except (Illegal, Rejected, MacroTrap) as trap:
            trap.consumed = done
            raise
        except Switched as switch:
            switch.consumed = done - 1
            raise
        return done

    def address(self, method: int) -> int:
        """Return the 40-bit address in the pair of state words at `method` (high first)."""
        return (self.state[method >> 2] & 0xFF) << 32 | self.state[(method >> 2) + 1]

    def on_notify(self, value: int) -> None:
        """Notifiers carry no data in this model: completion is told by semaphores."""


def _indexed(handler: Callable[[int, int], None], element: int) -> Callable[[int], None]:
    return lambda value: handler(element, value)
