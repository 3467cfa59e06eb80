"""Lets the tests of this folder import their helpers, and finds the optional data beside the repository."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

from samples import fermi_data  # noqa: E402

DATA = fermi_data()
# nvcc's cubins are not this project's to ship: their tests exist where somebody put them beside the repository.
collect_ignore = [] if DATA is not None and (DATA / "nvcc").is_dir() else ["test_nvcc.py"]
