"""Real guests: QEMU and the guest image, from the cache or prepared into it. `make guests` runs these tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpuvm.vmm import image as images
from gpuvm.vmm.fleet import Fleet, Plan
from gpuvm.vmm.image import Image
from gpuvm.vmm.qemu import Qemu, choose, prepare

CACHE = "GPUVM_CACHE_DIR"
BOOT_S = 240.0
"""Seconds that guests may take to boot on a machine that does other things too."""


@pytest.fixture(scope="session", autouse=True)
def user_cache() -> Iterator[None]:
    """What is downloaded and built for guests stays in the user's cache, unlike translations of other tests."""
    ours = os.environ.get(CACHE, "")
    if os.path.basename(ours).startswith("gpuvm-tests-"):
        del os.environ[CACHE]
    yield
    if ours:
        os.environ[CACHE] = ours


@pytest.fixture(scope="session")
def image(user_cache: None) -> Image:
    return images.build()


@pytest.fixture(scope="session")
def qemu(image: Image) -> Qemu:
    return choose(prepare(), image)


@pytest.fixture(autouse=True)
def responsive() -> Iterator[None]:
    """The hypervisor's threads hand the interpreter over as quickly as in the daemon."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def boot(qemu: Qemu, image: Image, tmp_path: Path) -> Iterator[Callable[[Plan], Fleet]]:
    """Boot what a plan says; it ends with the test."""
    fleets = []

    def booted(plan: Plan) -> Fleet:
        fleet = Fleet(qemu, image, plan, logs=tmp_path)
        fleets.append(fleet)
        fleet.boot(BOOT_S)
        return fleet

    yield booted
    for fleet in fleets:
        fleet.close()
