"""A driver brings up a chip that is already up: every handshake is answered, and the chip does not see it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest


class Seen:
    """The physical GPU with a note of the registers that are written."""

    def __init__(self, gpu: Any) -> None:
        self.written: set[int] = set()
        write = gpu.registers.write

        def note(offset: int, value: int) -> None:
            self.written.add(offset)
            write(offset, value)

        gpu.registers.write = note


@pytest.fixture
def guest(machine: Any) -> Any:
    machine.guest("first")
    guest = machine.guest("guest")
    guest.seen = Seen(machine.gpu)
    return guest


def test_power_management_microcontroller(guest: Any) -> None:
    assert guest.read(0x10A04C) == guest.read(0x10A10C) & 6 == 0
    guest.write(0x10A1C0, 0x01000000)
    guest.write(0x10A1C4, 0x12345678)
    guest.write(0x10A104, 0)
    guest.write(0x10A100, 2)
    assert guest.read(0x10A4D0) >> 16
    assert guest.read(0x10A4DC) >> 16
    guest.write(0x10A4A0, 0x80)
    assert guest.read(0x10A4B0) == 0x80
    assert guest.seen.written == set()


def test_context_switch_microcontroller(guest: Any) -> None:
    guest.write(0x409800, 0xC0)
    guest.write(0x40910C, 0)
    guest.write(0x409100, 2)
    assert guest.read(0x409800) & 1 << 31
    size = guest.read(0x409804)
    assert size
    guest.write(0x409840, 0x80000000)
    assert guest.read(0x409800) & 1 << 31 == 0
    guest.write(0x409820, 0x5)
    assert guest.read(0x409800) & 5 == 5
    guest.write(0x409500, 0x80000060)
    guest.write(0x409504, 1)
    assert guest.read(0x409800) & 1 << 31
    assert guest.read(0x409B00) == guest.read(0x409B04) == 0x80000060
    guest.write(0x409B04, 0x60)
    guest.write(0x409000, 0x100)
    assert guest.read(0x409B00) & 1 << 31 == 0
    guest.write(0x409840, 0xFFFFFFFF)
    guest.write(0x409504, 0x10)
    assert guest.read(0x409800) == size
    guest.write(0x409504, 0x38)
    assert guest.read(0x409804) == 1
    assert guest.seen.written == set()


def test_what_a_driver_polls_after_a_write(guest: Any) -> None:
    for offset, value, mask, wanted in (
        (0x404170, 0x12, 0x10, 0),
        (0x121C4C, 0x02, 0x3F, 0),
        (0x400204, 0x1234, 0, 0),
        (0x400200, 0x28, 0, 0),
        (0x070000, 1, 2, 0),
        (0x070004, 1, 3, 0),
        (0x100CBC, 0x80000001, 0, 0),
    ):
        guest.write(offset, value)
        assert guest.read(offset) & mask == wanted, hex(offset)
    assert guest.read(0x400700) == guest.read(0x40060C) == guest.read(0x002640) == 0
    assert guest.read(0x100C80) & 0x00FF8000 == 0x00FF8000
    assert guest.seen.written <= {0x070000, 0x070004, 0x100CB8, 0x100CBC}


def test_engine_enables_and_counts(guest: Any) -> None:
    guest.write(0x200, 0)
    assert guest.read(0x200) == 0
    guest.write(0x200, 0x40003120)
    guest.write(0x204, 0xFFFFFFFF)
    assert guest.read(0x204) == 7
    assert guest.read(0x409604) & 0x1F == 4
    assert [guest.read(0x502608 + 0x8000 * gpc) for gpc in range(4)] == [4, 4, 3, 3]
    partitions = guest.read(0x22438)
    assert guest.read(0x121C74) == partitions
    assert sum(guest.read(0x11020C + 0x1000 * n) for n in range(16)) == 16
    assert guest.read(0x10F20C) * partitions == 16
    assert guest.seen.written <= {0x2270, 0x2274}, "the playlist without this guest's channels"


def test_time_is_the_guests_own(guest: Any, machine: Any) -> None:
    chip = machine.gpu.ptimer.now()
    guest.write(0x9410, 0x00000007)
    guest.write(0x9400, 0x00000000)
    assert guest.read(0x9410) == 7
    assert guest.read(0x9400) < 1 << 31
    assert machine.gpu.ptimer.now() - chip < 5 * 10**9
    guest.write(0x9140, 1)
    guest.write(0x9420, guest.read(0x9400) + 100_000)
    guest.write(0x640, 1 << 20)
    time.sleep(0.001)
    assert guest.read(0x9100) == 1
    assert guest.read(0x100) == 1 << 20
    guest.write(0x9420, (guest.read(0x9400) + (1 << 31)) & 0xFFFFFFFF)
    guest.write(0x9100, 1)
    assert guest.read(0x100) == 0


def test_the_vbios_and_the_config_mirror(guest: Any) -> None:
    assert guest.read(0x300000) & 0xFFFF == 0xAA55
    assert guest.read(0x88000) == guest.device.config_read(0, 4)
    guest.device.config_write(0x3C, 1, 0x0B)
    assert guest.read(0x8803C) & 0xFF == 0x0B
    guest.device.write(0, 0x6013D4, 1, 0x3F)
    guest.device.write(0, 0x6013D5, 1, 0x57)
    assert guest.device.read(0, 0x6013D4, 1) == 0x3F
    assert guest.read(0x6013D4) == 0x573F
    assert guest.seen.written == set()


def test_a_message_is_sent_again_when_the_driver_rearms(make_machine: Callable[..., Any]) -> None:
    guest = make_machine().guest("guest").start()
    calls: list[int] = []
    guest.device.config_write(4, 2, 6)
    guest.device.config_write(0x6A, 2, guest.device.config_read(0x6A, 2) | 1)

    class Sink:
        def message(self, vector: int) -> None:
            calls.append(vector)

        def level(self, asserted: bool) -> None:
            raise AssertionError("MSI is enabled")

    guest.device.connect(guest.vm.bus, Sink())
    guest.write(0x2A00, 0xFFFFFFFF)
    guest.write(0x140, 1)
    assert calls == []
    guest.write(0x2274, 0x01F00000)
    assert calls == [0]
    guest.write(0x140, 0)
    guest.write(0x140, 1)
    assert calls == [0, 0], "still pending when the driver enables interrupts again"
    guest.device.write(0, 0x88704, 1, 0xFF)
    assert calls == [0, 0, 0]
    guest.write(0x2A00, 0x10000000)
    guest.device.write(0, 0x88704, 1, 0xFF)
    assert calls == [0, 0, 0]


def test_without_msi_the_line_follows(make_machine: Callable[..., Any]) -> None:
    guest = make_machine().guest("guest").start()
    levels: list[bool] = []

    class Sink:
        def message(self, vector: int) -> None:
            raise AssertionError("MSI is off")

        def level(self, asserted: bool) -> None:
            levels.append(asserted)

    guest.device.connect(guest.vm.bus, Sink())
    guest.write(0x140, 1)
    guest.write(0x2A00, 0xFFFFFFFF)
    levels.clear()
    guest.write(0x2274, 0x01F00000)
    assert guest.device.config_read(6, 2) & 8
    guest.write(0x140, 0)
    guest.write(0x140, 1)
    guest.write(0x2A00, 0x10000000)
    assert levels == [True, False, True, False]
    guest.device.config_write(4, 2, 0x0406)
    guest.write(0x2274, 0x01F00000)
    assert levels == [True, False, True, False], "the command register keeps the line down"
