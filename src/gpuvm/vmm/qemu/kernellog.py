"""The guest kernel's log: records of /dev/kmsg, and which of them mean trouble with the GPU."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

WARNING = 4
"""Levels up to this one (emergency 0, alert, critical, error, warning 4) are problems."""

LEVELS = ("emergency", "alert", "critical", "error", "warning", "notice", "info", "debug")
_OURS = re.compile(r"\b(nouveau|drm|ttm|\[TTM\]|dri)\b|0000:00:\w\w\.\w: (BAR|vgaarb)", re.IGNORECASE)
_FATAL = re.compile(
    r"BUG:|Oops|Kernel panic|general protection fault|Call Trace|WARNING: CPU|blocked for more than|"
    r"soft lockup|rcu.*stall|Out of memory|unable to handle"
)


@dataclass(frozen=True, slots=True)
class KernelMessage:
    """One message.

    Attributes
    ----------
    level : int
        0 (emergency) to 7 (debug).
    time_s : float
        Guest seconds since its kernel started.
    """

    level: int
    time_s: float
    text: str

    def __str__(self) -> str:
        return f"[{self.time_s:12.6f}] {self.text}"


def parse(record: bytes) -> KernelMessage | None:
    """Read a record of /dev/kmsg ("level,sequence,microseconds,flags;text"); None if it is none."""
    head, _, text = record.decode("utf-8", "replace").partition(";")
    fields = head.split(",")
    try:
        priority, microseconds = int(fields[0]), int(fields[2])
    except (ValueError, IndexError):
        return None
    return KernelMessage(priority & 7, microseconds / 1e6, text.split("\n", 1)[0])


def problems(messages: Iterable[KernelMessage]) -> list[KernelMessage]:
    """Those that are warnings or worse and the GPU driver's, and those of a kernel in trouble."""
    return [
        message
        for message in messages
        if (message.level <= WARNING and _OURS.search(message.text)) or _FATAL.search(message.text)
    ]
