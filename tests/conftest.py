"""For all rooms: translations go to a cache of this test run, shared by its processes and gone at its end."""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest

CACHE = "GPUVM_CACHE_DIR"


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and CACHE not in os.environ:
        os.environ[CACHE] = tempfile.mkdtemp(prefix="gpuvm-tests-")
        config.add_cleanup(_remove_cache)


def _remove_cache() -> None:
    shutil.rmtree(os.environ.pop(CACHE), ignore_errors=True)
