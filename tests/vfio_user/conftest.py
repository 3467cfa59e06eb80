"""A card behind a server on a socket of this test's own; `vfio_wire` is beside this file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from vfio_wire import Card, Wire

from gpuvm.vmm.vfio_user import Limits, Server
from gpuvm.vmm.vfio_user.bridge import endpoint

LIMITS = Limits(max_maps=8, max_transfer=1 << 16, max_fds=8, dma_timeout_s=0.3, max_held=64)


@pytest.fixture
def card() -> Card:
    return Card()


@pytest.fixture
def server(card: Card, tmp_path: Path) -> Iterator[Server]:
    with Server(endpoint(card, LIMITS), tmp_path / "s") as made:
        yield made


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    made = Wire.to(server.path)
    yield made
    made.close()
