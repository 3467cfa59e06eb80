"""What PGRAPH's classes have in common: methods below 0x200, scratch methods, and calls of macros. rnndb
fifo/nv_object.xml.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuvm.gpu.classes import macro
from gpuvm.gpu.classes.method import ClassObject, Illegal, Method, Rejected, Switched

if TYPE_CHECKING:
    from gpuvm.gpu.channel import Channel
    from gpuvm.gpu.device import Gf100

MACRO_BASE = 0x3800

COMMON = (
    Method(0x0100, "NOP"),
    Method(0x0104, "NOTIFY_ADDRESS_HIGH"),
    Method(0x0108, "NOTIFY_ADDRESS_LOW"),
    Method(0x010C, "NOTIFY", trigger=True),
    Method(0x0110, "SERIALIZE"),
    Method(0x0114, "MACRO_CODE_POS"),
    Method(0x0118, "MACRO_CODE_DATA", trigger=True),
    Method(0x011C, "MACRO_ENTRY_POS"),
    Method(0x0120, "MACRO_ENTRY_DATA", trigger=True),
    Method(0x0124, "MACRO_UNK0124"),
    Method(0x0130, "COND_MASTER_ADDRESS_HIGH"),
    Method(0x0134, "COND_MASTER_ADDRESS_LOW"),
    Method(0x0138, "COND_MASTER_MODE"),
    Method(0x013C, "UNK013C"),
    Method(0x0140, "PM_TRIGGER"),
    Method(0x0150, "UNK0150"),
    Method(0x0154, "UNK0154"),
    Method(0x3400, "SCRATCH", count=0x80),
    Method(MACRO_BASE, "MACRO", trigger=True, count=macro.ENTRIES, stride=8),
    Method(MACRO_BASE + 4, "MACRO_PARAM", trigger=True, count=macro.ENTRIES, stride=8),
)
"""Methods of every PGRAPH class."""


class GraphObject(ClassObject):
    """An object of PGRAPH; its macros are the channel's."""

    def __init__(self, gpu: Gf100, channel: Channel) -> None:
        super().__init__(gpu, channel)
        self._macro: macro.Execution | None = None
        """The macro that waits for a parameter, or for a method that was switched out."""
        self._sending: macro.Request = None
        """That method and its data."""

    def submit(self, method: int, words: memoryview, step: int, deadline: float) -> int:
        if self._macro is not None and not MACRO_BASE <= method < MACRO_BASE + 8 * macro.ENTRIES:
            self._macro = None
            raise macro.MacroTrap(macro.TOO_FEW_PARAMS)
        return super().submit(method, words, step, deadline)

    def on_macro_code_data(self, value: int) -> None:
        state, at = self.state, self.state[0x114 >> 2] % macro.CODE_WORDS
        self.channel.macros.code[at] = value
        state[0x114 >> 2] = at + 1

    def on_macro_entry_data(self, value: int) -> None:
        state, at = self.state, self.state[0x11C >> 2] % macro.ENTRIES
        self.channel.macros.entries[at] = value
        state[0x11C >> 2] = at + 1

    def on_macro(self, number: int, value: int) -> None:
        if self._sending is not None:
            self._advance(None)
            return
        if self._macro is not None:
            self._macro = None
            raise macro.MacroTrap(macro.TOO_FEW_PARAMS)
        self._macro = macro.run(self.channel.macros, number, value, self._read)
        self._advance(None)

    def on_macro_param(self, number: int, value: int) -> None:
        if self._macro is None:
            raise macro.MacroTrap(macro.TOO_MANY_PARAMS)
        self._advance(None if self._sending is not None else value)

    def _advance(self, value: int | None) -> None:
        """Let the macro run until it waits for a parameter or ends.

        A method that was switched out is carried on when the same word comes again.
        """
        running, self._macro = self._macro, None
        sending, self._sending = self._sending, None
        assert running is not None
        while True:
            if sending is not None:
                try:
                    self._send(*sending)
                except Switched:
                    self._macro, self._sending = running, sending
                    raise
            try:
                sending = running.send(value)
            except StopIteration:
                return
            value = None
            if sending is None:
                self._macro = running
                return

    def _read(self, method: int) -> int:
        return self.state[method >> 2]

    def _send(self, method: int, value: int) -> None:
        """A macro's method: it may do all that the pushbuffer's may, except call macros."""
        index = method >> 2
        try:
            if not self.TABLE.known[index] or method >= MACRO_BASE:
                raise Illegal
            self.state[index] = value
            handler = self._triggers.get(index)
            if handler is not None:
                handler(value)
        except (Illegal, Rejected) as trap:
            if trap.sent is None:
                trap.sent = (method, value)
            raise
