"""The daemon's fixtures for the stories of this folder; `daemon_rig` is beside this file."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from daemon_rig import guests, settings, start

__all__ = ["guests", "settings", "start"]
