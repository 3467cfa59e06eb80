"""What the daemon says no with."""

from __future__ import annotations


class DaemonError(Exception):
    """The daemon cannot do what it was asked; the text is one sentence for people."""
