"""How one field of a register answers a CPU: the access kinds that declarations use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Access:
    """An access kind.

    Attributes
    ----------
    symbol : str
        What tables and documents print.
    readable, writable : bool
        Whether a read shows the stored bits and a write replaces them.
    clears : bool
        Whether a one that is written clears the stored bit.
    """

    symbol: str
    readable: bool
    writable: bool
    clears: bool = False

    def __str__(self) -> str:
        return self.symbol


R = Access("R", readable=True, writable=False)
"""Read only: the device sets it, writes are dropped."""

RW = Access("RW", readable=True, writable=True)
"""Keeps what was written last."""

W1C = Access("W1C", readable=True, writable=False, clears=True)
"""Status bits: the device sets them, writing a one clears."""

T = Access("T", readable=False, writable=False)
"""Trigger: a write does something, nothing is kept, reads give 0."""
