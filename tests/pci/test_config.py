"""Configuration space as firmware and an operating system walk it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuvm.pci.config import BAR0, COMMAND, MSI, SIZE, ConfigSpace
from gpuvm.pci.device import Bar


@pytest.fixture
def config() -> ConfigSpace:
    bars = (Bar(0, 16 << 20), Bar(1, 128 << 20, is_64bit=True, prefetchable=True))
    return ConfigSpace(vendor=0x10DE, device=0x06D8, class_code=0x030000, bars=bars)


def test_identification_is_read_only(config: ConfigSpace):
    config.write(0, 4, 0)
    assert config.read(0, 4) == 0x06D810DE
    assert config.read(0x0A, 2) == 0x0300


@pytest.mark.parametrize(("index", "size"), [(0, 16 << 20), (1, 128 << 20)])
def test_a_bar_answers_the_size_probe_and_keeps_its_address(config: ConfigSpace, index: int, size: int):
    at = BAR0 + 4 * index
    config.write(at, 4, 0xFFFFFFFF)
    assert (~(config.read(at, 4) & ~0xF) + 1) & 0xFFFFFFFF == size
    config.write(at, 4, 0xF0000000)
    assert config.address(index) == 0xF0000000


def test_a_64_bit_bar_says_so_and_takes_a_high_address(config: ConfigSpace):
    assert config.read(BAR0 + 4, 4) & 0xF == 0xC
    config.write(BAR0 + 4, 8, 0x12_4000_0000)
    assert config.address(1) == 0x12_4000_0000


def test_the_capability_list_leads_to_msi(config: ConfigSpace):
    seen, at = [], config.read(0x34, 1)
    while at:
        seen.append(config.read(at, 1))
        at = config.read(at + 1, 1)
    assert seen == [0x01, 0x05]
    assert config.read(0x06, 2) & 0x10


def test_msi_takes_over_from_the_line(config: ConfigSpace):
    assert config.intx_enabled
    config.write(MSI + 2, 2, 0x0001)
    assert config.msi_enabled
    assert not config.intx_enabled
    config.write(MSI + 4, 8, 0xFEE01000)
    assert config.read(MSI + 4, 4) == 0xFEE01000


def test_the_command_register_keeps_only_what_it_implements(config: ConfigSpace):
    config.write(COMMAND, 2, 0xFFFF)
    assert config.read(COMMAND, 2) == 0x0506
    assert config.memory_enabled
    assert config.bus_master


@given(st.integers(-8, SIZE + 8), st.sampled_from([1, 2, 4, 8]), st.integers(0, 2**64 - 1))
def test_no_access_does_harm(offset: int, size: int, value: int):
    config = ConfigSpace(vendor=1, device=2, class_code=3, bars=())
    config.write(offset, size, value)
    assert 0 <= config.read(offset, size) < 1 << 8 * size
    assert config.read(0, 4) == 0x00020001
