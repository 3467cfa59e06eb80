"""Where gpuvm keeps what it can make again: one folder of the user's cache, with a folder for each purpose."""

from __future__ import annotations

import os
from pathlib import Path


def cache(*names: str) -> Path:
    """A folder of the cache (not made here): $GPUVM_CACHE_DIR, else gpuvm in the user's cache folder."""
    found = os.environ.get("GPUVM_CACHE_DIR")
    if found:
        return Path(found, *names)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home, "gpuvm", *names)
