"""Interrupts: what a device has, eventfds given, taken and masked, and the INTx pin."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from vfio_wire import Card, Wire, eventually, open_fds

from gpuvm.vmm.vfio_user import Endpoint, Interrupts, IrqIndex, Server
from gpuvm.vmm.vfio_user.protocol import Command

NONE, BOOL, EVENTFD = 1, 2, 4
MASK, UNMASK, TRIGGER = 8, 16, 32
INTX, MSI, MSIX, ERR, REQ = range(5)
VECTORS = 2048


def set_irqs(flags: int, index: int, start: int, count: int, tail: bytes = b"", argsz: int = 20) -> bytes:
    return struct.pack("<IIIII", argsz, flags, index, start, count) + tail


@pytest.fixture
def interrupts() -> Interrupts:
    return Interrupts({IrqIndex.INTX: 1, IrqIndex.MSI: 4, IrqIndex.MSIX: VECTORS, IrqIndex.REQ: 1})


@pytest.fixture
def line(interrupts: Interrupts, tmp_path: Path) -> Iterator[Wire]:
    with Server(Endpoint([], interrupts), tmp_path / "i") as server:
        wire = Wire.to(server.path)
        yield wire
        wire.close()


@pytest.fixture
def bells() -> Iterator[list[int]]:
    made = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3)]
    yield made
    for fd in made:
        os.close(fd)


def rings(fd: int) -> int:
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def test_what_a_pci_device_has(wire: Wire) -> None:
    ask = struct.Struct("<IIII")
    for index, flags, count in ((INTX, 7, 1), (MSI, 9, 1), (MSIX, 9, 0), (ERR, 1, 0), (REQ, 1, 0)):
        for argsz in (16, 32):
            reply = wire.ask(Command.DEVICE_GET_IRQ_INFO, ask.pack(argsz, 0, index, 0))
            assert ask.unpack(reply) == (16, flags, index, count)
    for bad in (ask.pack(8, 0, 0, 0), ask.pack(16, 0, 5, 0), b"12345678"):
        assert wire.errno(Command.DEVICE_GET_IRQ_INFO, bad) == errno.EINVAL


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        struct.pack("<II", 0, 0),
        set_irqs(TRIGGER | NONE, REQ, 0, 0, argsz=3),
        set_irqs(TRIGGER | NONE, 5, 0, 0),
        set_irqs(MASK | UNMASK, MSIX, 0, 0),
        set_irqs(MASK | UNMASK | NONE, MSIX, 0, 1),
        set_irqs(MASK | NONE | BOOL, MSIX, 0, 0),
        set_irqs(TRIGGER, MSIX, 0, 1),
        set_irqs(NONE, MSIX, 0, 1),
        set_irqs(TRIGGER | NONE | 0x80, MSIX, 0, 1),
        set_irqs(MASK | NONE, MSIX, 2047, 2),
        set_irqs(MASK | NONE, MSIX, 2049, 1),
        set_irqs(TRIGGER | EVENTFD, MSIX, 284, 0xFFFFFFFF),
        set_irqs(TRIGGER | NONE, MSIX, 0xFFFFFFFF, 0xFFFFFFFF),
        set_irqs(MASK | NONE, ERR, 0, 1),
        set_irqs(MASK | NONE, REQ, 0, 1),
        set_irqs(TRIGGER | NONE, REQ, 0, 2),
        set_irqs(MASK | NONE, MSIX, 1, 0),
        set_irqs(MASK | NONE, MSIX, 0, 0),
        set_irqs(TRIGGER | BOOL, MSIX, 0, 0),
        set_irqs(TRIGGER | BOOL, MSIX, 0, 2, b"\1"),
        set_irqs(TRIGGER | BOOL, MSIX, 0, 2, b"\1\1\1"),
        set_irqs(TRIGGER | NONE, ERR, 0, 1),
    ],
)
def test_requests_refused(line: Wire, request_: bytes) -> None:
    assert line.errno(Command.DEVICE_SET_IRQS, request_) == errno.EINVAL
    assert line.alive()


def test_descriptors_refused_are_closed(line: Wire, bells: list[int]) -> None:
    before = open_fds()
    for request in (
        set_irqs(TRIGGER | BOOL, MSIX, 0, 1, b"\1"),
        set_irqs(TRIGGER | NONE, MSIX, 0, 1),
        set_irqs(TRIGGER | EVENTFD, MSIX, 0, 2),
        set_irqs(MASK | EVENTFD, MSIX, 0, 1),
    ):
        assert line.errno(Command.DEVICE_SET_IRQS, request, bells[:1]) in (errno.EINVAL, errno.ENOTSUP)
    reader, writer = os.pipe()
    left, right = socket.socketpair()
    for fd in (reader, writer, left.fileno()):  # a write to these could wait
        assert (
            line.errno(Command.DEVICE_SET_IRQS, set_irqs(TRIGGER | EVENTFD, MSIX, 0, 1), [fd]) == errno.EINVAL
        )
    os.close(reader)
    os.close(writer)
    left.close()
    right.close()
    assert open_fds() == before


def test_a_message_rings_the_bell_of_its_vector(line: Wire, interrupts: Interrupts, bells: list[int]) -> None:
    assert not interrupts.trigger(IrqIndex.MSIX, 8)
    line.ask(Command.DEVICE_SET_IRQS, set_irqs(TRIGGER | EVENTFD, MSIX, 8, 2), bells[:2])
    os.eventfd_write(bells[0], 4)
    interrupts.message(8)
    interrupts.message(9)
    interrupts.message(10)
    interrupts.message(VECTORS)
    interrupts.message(-1)
    assert [rings(bell) for bell in bells] == [5, 1, 0]
    line.ask(Command.DEVICE_SET_IRQS, set_irqs(TRIGGER | EVENTFD, MSI, 1, 1), bells[2:])
    interrupts.message(1)
    interrupts.message(8)
    assert [rings(bell) for bell in bells] == [1, 0, 1]
    assert not interrupts.trigger(IrqIndex.MSIX, VECTORS)


def test_a_client_triggers_by_itself(line: Wire, bells: list[int]) -> None:
    line.ask(Command.DEVICE_SET_IRQS, set_irqs(TRIGGER | EVENTFD, MSIX, 0, 2), bells[:2])
    line.ask(Command.DEVICE_SET_IRQS, set_irqs(TRIGGER | NONE, MSIX, 1, 1))
    assert [rings(bell) for bell in bells[:2]] == [0, 1]
    line.ask(Command.DEVICE_SET_IRQS, set_irqs(TRIGGER | BOOL, MSIX, 0, 3, b"\1\0\1"))
    assert [rings(bell) for bell in bells[:2]] == [1, 0]


@pytest.mark.parametrize(
    "away", [set_irqs(TRIGGER | NONE, MSIX, 0, 0), set_irqs(TRIGGER | EVENTFD, MSIX, 0, 2)]
)
def test_bells_are_taken_away(line: Wire, interrupts: Interrupts, bells: list[int], away: bytes) -> None:
    before = open_fds()
    line.ask(Command.DEVICE_SET_IRQS, set_irqs(TRIGGER | EVENTFD, MSIX, 0, 2), bells[:2])
    assert open_fds() == before + 2
    line.ask(Command.DEVICE_SET_IRQS, set_irqs(TRIGGER | EVENTFD, MSIX, 0, 2), bells[1:])
    assert open_fds() == before + 2
    line.ask(Command.DEVICE_SET_IRQS, away)
    assert open_fds() == before
    interrupts.message(0)
    assert [rings(bell) for bell in bells] == [0, 0, 0]


def test_a_masked_message_waits(line: Wire, interrupts: Interrupts, bells: list[int]) -> None:
    line.ask(Command.DEVICE_SET_IRQS, set_irqs(TRIGGER | EVENTFD, MSIX, 0, 3), bells)
    line.ask(Command.DEVICE_SET_IRQS, set_irqs(MASK | BOOL, MSIX, 0, 3, b"\0\1\1"))
    for vector in (0, 1, 1):
        interrupts.message(vector)
    assert [rings(bell) for bell in bells] == [1, 0, 0]
    line.ask(Command.DEVICE_SET_IRQS, set_irqs(UNMASK | NONE, MSIX, 0, 3))
    assert [rings(bell) for bell in bells] == [0, 1, 0]
    interrupts.message(2)
    assert rings(bells[2]) == 1


def test_the_pin_masks_itself_and_repeats_until_it_falls(
    line: Wire, interrupts: Interrupts, bells: list[int]
) -> None:
    line.ask(Command.DEVICE_SET_IRQS, set_irqs(TRIGGER | EVENTFD, INTX, 0, 1), bells[:1])
    interrupts.level(True)
    interrupts.level(True)
    assert rings(bells[0]) == 1
    for _ in range(3):
        line.ask(Command.DEVICE_SET_IRQS, set_irqs(UNMASK | NONE, INTX, 0, 1))
        assert rings(bells[0]) == 1
    interrupts.level(False)
    line.ask(Command.DEVICE_SET_IRQS, set_irqs(UNMASK | NONE, INTX, 0, 1))
    assert rings(bells[0]) == 0
    interrupts.level(True)
    assert rings(bells[0]) == 1


def test_a_pin_that_is_up_already_is_heard(line: Wire, interrupts: Interrupts, bells: list[int]) -> None:
    interrupts.level(True)
    line.ask(Command.DEVICE_SET_IRQS, set_irqs(TRIGGER | EVENTFD, INTX, 0, 1), bells[:1])
    assert rings(bells[0]) == 1


def test_the_change_from_the_pin_to_messages_as_qemu_does_it(
    wire: Wire, card: Card, bells: list[int]
) -> None:
    wire.ask(Command.DEVICE_SET_IRQS, set_irqs(TRIGGER | EVENTFD, INTX, 0, 1), bells[:1])
    wire.ask(Command.DEVICE_SET_IRQS, set_irqs(TRIGGER | NONE, INTX, 0, 0))
    wire.ask(Command.DEVICE_SET_IRQS, set_irqs(TRIGGER | EVENTFD, MSI, 0, 1), bells[1:2])
    assert card.pin is not None
    card.pin.level(True)
    card.pin.message(0)
    assert [rings(bell) for bell in bells] == [0, 1, 0]


def test_a_full_counter_does_not_stop_the_device(line: Wire, interrupts: Interrupts) -> None:
    bell = os.eventfd((1 << 32) - 1)
    os.eventfd_write(bell, (1 << 64) - 2 - ((1 << 32) - 1))
    line.ask(Command.DEVICE_SET_IRQS, set_irqs(TRIGGER | EVENTFD, MSI, 0, 1), [bell])
    interrupts.message(0)
    assert rings(bell) == (1 << 64) - 2
    os.close(bell)


def test_bells_go_with_the_client(interrupts: Interrupts, bells: list[int], tmp_path: Path) -> None:
    with Server(Endpoint([], interrupts), tmp_path / "i") as server:
        before = open_fds()
        for _ in range(3):
            wire = Wire.to(server.path)
            wire.ask(Command.DEVICE_SET_IRQS, set_irqs(TRIGGER | EVENTFD, MSIX, 0, 3), bells)
            wire.close()
            assert eventually(lambda: open_fds() == before)
        interrupts.message(0)
        assert rings(bells[0]) == 0


def test_counts_must_make_sense() -> None:
    with pytest.raises(ValueError, match="at most one INTx pin, got 2"):
        Interrupts({IrqIndex.INTX: 2})
    with pytest.raises(ValueError, match="MSIX may have 0 to 2048 vectors, got 2049"):
        Interrupts({IrqIndex.MSIX: 2049})
