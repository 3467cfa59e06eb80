"""DMA: maps with descriptors, of files and by messages; what of them the device reaches, and when it ends."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from vfio_wire import ERROR, REPLY, Card, Wire, eventually, memfd, open_fds

from conftest import LIMITS
from gpuvm.pci.memory import PAGE, BusMemory, DmaError
from gpuvm.vmm.vfio_user import Client, DmaFlags, Limits, Server, Session
from gpuvm.vmm.vfio_user.bridge import endpoint
from gpuvm.vmm.vfio_user.protocol import Command

READ, WRITE, MMAP, FILE_IO = 1, 2, 4, 8
BOTH = READ | WRITE
HIGH = 1 << 32


def dma_map(address: int, size: int, flags: int = BOTH, offset: int = 0, argsz: int = 32) -> bytes:
    return struct.pack("<IIQQQ", argsz, flags, offset, address, size)


def dma_unmap(address: int, size: int, flags: int = 0, argsz: int = 24) -> bytes:
    return struct.pack("<IIQQ", argsz, flags, address, size)


@pytest.fixture
def ram() -> Iterator[int]:
    fd = memfd(16)
    yield fd
    os.close(fd)


def bases(bus: BusMemory) -> list[tuple[int, int]]:
    return [(base, region.size) for region, base in bus.regions()]


def test_shared_memory_is_on_the_devices_bus(wire: Wire, card: Card, ram: int) -> None:
    wire.ask(Command.DMA_MAP, dma_map(HIGH, 4 * PAGE, offset=8 * PAGE), [ram])
    wire.ask(Command.DMA_MAP, dma_map(0, 2 * PAGE, BOTH | MMAP), [ram])
    assert bases(card.bus) == [(0, 2 * PAGE), (HIGH, 4 * PAGE)]
    os.pwrite(ram, b"from the client", 9 * PAGE + 5)
    assert card.bus.read(HIGH + PAGE + 5, 15) == b"from the client"
    card.bus.write(16, b"from the device")
    assert os.pread(ram, 15, 16) == b"from the device"
    region, offset = card.bus.find(HIGH + 2 * PAGE)
    region.word_view[offset // 4] = 0x12345678
    assert os.pread(ram, 4, 10 * PAGE) == b"\x78\x56\x34\x12"
    with pytest.raises(DmaError):
        card.bus.read(2 * PAGE - 1, 2)


def test_unmapping(wire: Wire, card: Card, ram: int) -> None:
    before = open_fds()
    for page in (1, 3, 5):
        wire.ask(Command.DMA_MAP, dma_map(page * PAGE, PAGE), [ram])
    request = dma_unmap(3 * PAGE, PAGE)
    assert wire.ask(Command.DMA_UNMAP, request) == request
    assert bases(card.bus) == [(PAGE, PAGE), (5 * PAGE, PAGE)]
    assert wire.errno(Command.DMA_UNMAP, request) == errno.ENOENT
    assert wire.errno(Command.DMA_UNMAP, dma_unmap(PAGE, 2 * PAGE)) == errno.ENOENT
    assert wire.errno(Command.DMA_UNMAP, dma_unmap(PAGE + 1, PAGE - 1)) == errno.ENOENT
    wire.ask(Command.DMA_UNMAP, dma_unmap(0, 0, flags=2))
    assert bases(card.bus) == []
    wire.ask(Command.DMA_UNMAP, dma_unmap(0, 0, flags=2))
    assert open_fds() <= before


@pytest.mark.parametrize(
    "request_",
    [
        struct.pack("<II", 0, 0),
        dma_unmap(PAGE, PAGE, argsz=8),
        dma_unmap(PAGE, PAGE, argsz=(1 << 16) + 8),
        dma_unmap(PAGE, PAGE, flags=1),  # the dirty bitmap: writes are not logged
        dma_unmap(PAGE, PAGE, flags=1) + struct.pack("<QQ", PAGE, (1 << 64) - 1),
        dma_unmap(PAGE, PAGE, flags=4),
        dma_unmap(PAGE, PAGE, flags=2),
        dma_unmap(0, 0, flags=3),
    ],
)
def test_unmapping_refused(wire: Wire, card: Card, ram: int, request_: bytes) -> None:
    wire.ask(Command.DMA_MAP, dma_map(PAGE, PAGE), [ram])
    assert wire.errno(Command.DMA_UNMAP, request_) == errno.EINVAL
    assert bases(card.bus) == [(PAGE, PAGE)]


@pytest.mark.parametrize(
    ("request_", "fds", "number"),
    [
        (b"short", 0, errno.EINVAL),
        (dma_map(0, PAGE, argsz=31), 0, errno.EINVAL),
        (dma_map(0, PAGE, flags=0), 1, errno.EINVAL),
        (dma_map(0, PAGE, flags=0x10 | BOTH), 1, errno.EINVAL),
        (dma_map(0, PAGE, flags=BOTH | MMAP), 0, errno.EINVAL),
        (dma_map(0, PAGE, flags=BOTH | FILE_IO), 0, errno.EINVAL),
        (dma_map(0, PAGE, flags=BOTH | FILE_IO | MMAP), 1, errno.EINVAL),
        (dma_map(0, PAGE), 2, errno.EINVAL),
        (dma_map(0, 0), 1, errno.EINVAL),
        (dma_map(1, PAGE), 1, errno.EINVAL),
        (dma_map(0, PAGE + 1), 0, errno.EINVAL),
        (dma_map(0, PAGE, offset=12), 1, errno.EINVAL),
        (dma_map(0, PAGE, offset=16 * PAGE), 1, errno.EINVAL),
        (dma_map(0, PAGE, offset=(1 << 64) - PAGE), 1, errno.EINVAL),
        (dma_map(0, 17 * PAGE), 1, errno.EINVAL),
        (dma_map((1 << 64) - PAGE, 2 * PAGE), 0, errno.EINVAL),
        (dma_map(0, (1 << 43) + PAGE), 0, errno.ENOSPC),
        (dma_map(0, (1 << 64) - PAGE), 0, errno.ENOSPC),
    ],
)
def test_maps_refused(wire: Wire, card: Card, ram: int, request_: bytes, fds: int, number: int) -> None:
    before = open_fds()
    assert wire.errno(Command.DMA_MAP, request_, [ram] * fds) == number
    assert open_fds() <= before
    assert bases(card.bus) == []
    assert wire.alive()


def test_maps_do_not_overlap(wire: Wire, card: Card, ram: int) -> None:
    wire.ask(Command.DMA_MAP, dma_map(4 * PAGE, 4 * PAGE), [ram])
    before = open_fds()
    for address, size in ((4, 1), (3, 2), (7, 2), (3, 9), (4, 5)):
        assert wire.errno(Command.DMA_MAP, dma_map(address * PAGE, size * PAGE), [ram]) == errno.EINVAL
    assert wire.errno(Command.DMA_MAP, dma_map(4 * PAGE, 4 * PAGE, offset=PAGE), [ram]) == errno.EINVAL
    assert wire.errno(Command.DMA_MAP, dma_map(4 * PAGE, 4 * PAGE, READ), [ram]) == errno.EINVAL
    wire.ask(Command.DMA_MAP, dma_map(4 * PAGE, 4 * PAGE), [ram])  # once more the same is no error
    assert open_fds() <= before
    wire.ask(Command.DMA_MAP, dma_map(3 * PAGE, PAGE), [ram])
    wire.ask(Command.DMA_MAP, dma_map(8 * PAGE, PAGE), [ram])
    assert [base // PAGE for base, _ in bases(card.bus)] == [3, 4, 8]


def test_there_is_a_limit(wire: Wire, card: Card, ram: int) -> None:
    for page in range(LIMITS.max_maps):
        wire.ask(Command.DMA_MAP, dma_map(page * PAGE, PAGE), [ram])
    before = open_fds()
    assert wire.errno(Command.DMA_MAP, dma_map(100 * PAGE, PAGE), [ram]) == errno.EINVAL
    assert open_fds() <= before
    wire.ask(Command.DMA_UNMAP, dma_unmap(0, PAGE))
    wire.ask(Command.DMA_MAP, dma_map(100 * PAGE, PAGE), [ram])


def test_memory_that_could_shrink_is_not_mapped(wire: Wire, card: Card, tmp_path: Path) -> None:
    unsealed = memfd(1, sealed=False)
    file = os.open(tmp_path / "ram", os.O_RDWR | os.O_CREAT)
    os.ftruncate(file, PAGE)
    reader, writer = os.pipe()
    for fd, number in ((unsealed, errno.EPERM), (file, errno.EPERM), (reader, errno.EINVAL)):
        assert wire.errno(Command.DMA_MAP, dma_map(0, PAGE), [fd]) == number
    both_ways = memfd(1)
    read_only = os.open(f"/proc/self/fd/{both_ways}", os.O_RDONLY)
    assert wire.errno(Command.DMA_MAP, dma_map(0, PAGE), [read_only]) == errno.EPERM
    assert bases(card.bus) == []
    limits = Limits(sealed=False)
    with Server(endpoint(card, limits), tmp_path / "unsealed") as server:
        other = Wire.to(server.path)
        other.ask(Command.DMA_MAP, dma_map(0, PAGE), [file])
        card.bus.write(0, b"in the file")
        assert os.pread(file, 11, 0) == b"in the file"
        other.close()
    for fd in (unsealed, file, reader, writer, both_ways, read_only):
        os.close(fd)


def test_a_client_cannot_shrink_what_is_mapped(wire: Wire, card: Card, ram: int) -> None:
    wire.ask(Command.DMA_MAP, dma_map(0, 16 * PAGE), [ram])
    with pytest.raises(PermissionError):
        os.ftruncate(ram, PAGE)
    assert card.bus.read(15 * PAGE, 4) == bytes(4)


@pytest.mark.parametrize("flags", [BOTH | FILE_IO, READ, WRITE])
def test_files_and_one_way_maps_are_reached_by_calls_only(
    wire: Wire, card: Card, ram: int, flags: int
) -> None:
    wire.ask(Command.DMA_MAP, dma_map(PAGE, 2 * PAGE, flags, offset=PAGE), [ram])
    assert bases(card.bus) == []
    os.pwrite(ram, b"read me", PAGE + 7)
    if flags & READ:
        assert card.bus.read(PAGE + 7, 7) == b"read me"
    else:
        with pytest.raises(DmaError):
            card.bus.read(PAGE + 7, 7)
    if flags & WRITE:
        card.bus.write(PAGE + 7, b"written")
        assert os.pread(ram, 7, PAGE + 7) == b"written"
    else:
        with pytest.raises(DmaError):
            card.bus.write(PAGE + 7, b"written")


def test_a_descriptor_belongs_to_its_message(wire: Wire, card: Card, ram: int) -> None:
    """Bug of a server that reads ahead: a map without a descriptor takes that of the next."""
    wire.send(Command.DMA_MAP, dma_map(0xC0000, 4 * PAGE, READ))
    wire.send(Command.DMA_MAP, dma_map(HIGH, 4 * PAGE), [ram])
    wire.send(Command.DMA_MAP, dma_map(0xFE000000, 4 * PAGE))
    for _ in range(3):
        assert wire.receive()[3] == 0
    assert bases(card.bus) == [(HIGH, 4 * PAGE)]


@pytest.mark.parametrize("short", [[16], [16, 16], [20, 16, 24], [16, 40, 20], [31, 33, 17, 16]])
def test_a_descriptor_behind_short_messages_belongs_to_its_own(
    card: Card, ram: int, short: list[int]
) -> None:
    """All is there before the first read, which may take more than a short message has."""
    ours, theirs = socket.socketpair()
    wire = Wire(ours)
    wire.send(Command.VERSION, bytes(4))
    for size in short:
        wire.send(Command.DEVICE_RESET, bytes(size - 16))
    wire.send(Command.DMA_MAP, dma_map(HIGH, 2 * PAGE), [ram])
    wire.send(Command.DEVICE_RESET)
    wire.send(Command.DMA_MAP, dma_map(0, PAGE), [ram])
    thread = threading.Thread(target=Session(theirs, endpoint(card, LIMITS)).run)
    thread.start()
    errors = [wire.receive()[3] for _ in range(len(short) + 4)]
    assert errors == [0, *[errno.EINVAL if size > 16 else 0 for size in short], 0, 0, 0]
    assert bases(card.bus) == [(0, PAGE), (HIGH, 2 * PAGE)]
    wire.close()
    thread.join()


def test_memory_goes_with_its_last_user(wire: Wire, card: Card, ram: int) -> None:
    before = open_fds()
    wire.ask(Command.DMA_MAP, dma_map(0, PAGE), [ram])
    region, _ = card.bus.find(0)
    wire.ask(Command.DMA_UNMAP, dma_unmap(0, PAGE))
    with pytest.raises(DmaError):
        card.bus.find(0)
    region.write(0, b"a thread is still in it")
    assert region.fd >= 0
    assert open_fds() > before
    del region
    assert open_fds() <= before


def test_maps_go_with_the_client(server: Server, card: Card, ram: int) -> None:
    before = open_fds()
    wire = Wire.to(server.path)
    wire.ask(Command.DMA_MAP, dma_map(0, 2 * PAGE), [ram])
    wire.ask(Command.DMA_MAP, dma_map(HIGH, PAGE))
    wire.close()
    assert eventually(lambda: open_fds() == before)
    assert bases(card.bus) == []
    with pytest.raises(DmaError):
        card.bus.read(HIGH, 1)


# By message


class Ram:
    """Memory that only the client reaches."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self.log: list[tuple[str, int, int]] = []

    def read(self, offset: int, size: int) -> bytes:
        self.log.append(("read", offset, size))
        return bytes(self.data[offset : offset + size])

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self.log.append(("write", offset, len(data)))
        self.data[offset : offset + len(data)] = data

    def release(self) -> None: ...


def test_dma_by_message_while_the_client_is_idle(server: Server, card: Card) -> None:
    ram = Ram(64 * PAGE)
    with Client(server.path) as client:
        client.dma_map(HIGH, 64 * PAGE, memory=ram)
        assert bases(card.bus) == []
        data = os.urandom(3 * LIMITS.max_transfer + 5)
        card.bus.write(HIGH + 3, data)
        assert bytes(ram.data[3 : 3 + len(data)]) == data
        assert card.bus.read(HIGH + 3, len(data)) == data
        assert [size for _, _, size in ram.log] == [LIMITS.max_transfer] * 3 + [5] + [
            LIMITS.max_transfer
        ] * 3 + [5]
        with pytest.raises(DmaError):
            card.bus.read(HIGH + 64 * PAGE - 1, 2)
        client.dma_unmap(HIGH, 64 * PAGE)
        with pytest.raises(DmaError):
            card.bus.read(HIGH, 1)


def test_a_device_that_does_dma_within_an_access(server: Server, card: Card) -> None:
    """The thread that serves the client waits for the client's reply; writes that the client posts meanwhile
    are done after it, in order.
    """
    ram = Ram(PAGE)

    def doorbell(bar: int, offset: int, value: int) -> None:
        if offset == 0x100:
            card.bus.write(value, card.bus.read(value, 4)[::-1])

    card.on_write = doorbell
    with Client(server.path) as client:
        client.dma_map(0, PAGE, memory=ram)
        ram.data[8:12] = b"abcd"
        client.write(0, 0x100, 4, 8)
        assert ram.data[8:12] == b"dcba"
        for value in range(20):
            client.write(0, 0x100, 4, 8, posted=True)
            client.write(0, 0x200, 4, value, posted=True)
        assert client.read(0, 0x200, 4) == 19
        assert ram.data[8:12] == b"dcba"
    values = [entry[4] for entry in card.log if entry[:3] == ("write", 0, 0x200)]
    assert values == list(range(20))


def test_a_thread_of_the_device_does_dma_while_an_access_waits_for_it(server: Server, card: Card) -> None:
    """Nobody receives then but the thread that wants the reply."""
    ram = Ram(PAGE)
    ram.data[:4] = b"1234"
    got: list[bytes] = []

    def start_and_wait(bar: int, offset: int, value: int) -> None:
        worker = threading.Thread(target=lambda: got.append(card.bus.read(0, 4)))
        worker.start()
        worker.join()

    card.on_write = start_and_wait
    with Client(server.path) as client:
        client.dma_map(0, PAGE, memory=ram)
        for _ in range(5):
            client.write(0, 0, 4, 0)
    assert got == [b"1234"] * 5


def test_many_threads_do_dma_at_once(server: Server, card: Card) -> None:
    ram = Ram(16 * PAGE)
    with Client(server.path) as client:
        client.dma_map(0, 16 * PAGE, memory=ram)

        def work(number: int) -> None:
            for each in range(20):
                card.bus.write(number * PAGE, bytes([number, each]))
                assert card.bus.read(number * PAGE, 2) == bytes([number, each])

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for value in range(100):
            client.write(2, 0, 4, value)
            assert client.read(2, 0, 4) == value
        for thread in threads:
            thread.join()
    assert [bytes(ram.data[n * PAGE : n * PAGE + 2]) for n in range(4)] == [bytes([n, 19]) for n in range(4)]


def test_a_client_may_refuse(server: Server, card: Card) -> None:
    with Client(server.path) as client:
        client.dma_map(0, PAGE, memory=Ram(PAGE), flags=DmaFlags.READ)
        with pytest.raises(DmaError):
            card.bus.write(0, b"x")
    wire = Wire.to(server.path)
    wire.ask(Command.DMA_MAP, dma_map(0, PAGE))
    got: list[object] = []

    def read() -> None:
        try:
            got.append(card.bus.read(0x10, 4))
        except DmaError as error:
            got.append(error.address)

    for answer, flags in ((b"", REPLY | ERROR), (struct.pack("<QQ", 0x10, 4) + b"good", REPLY)):
        thread = threading.Thread(target=read)
        thread.start()
        ident, command, asked, _, payload, _ = wire.receive()
        assert (command, asked, payload) == (Command.DMA_READ, 0, struct.pack("<QQ", 0x10, 4))
        wire.sock.sendall(
            struct.pack("<HHIII", ident, command, 16 + len(answer), flags, 5 if flags & ERROR else 0) + answer
        )
        thread.join()
    assert got == [0x10, b"good"]
    wire.close()


@pytest.mark.parametrize(
    "answer", [None, b"", struct.pack("<QQ", 0, 3) + b"abc", struct.pack("<QQ", 8, 4) + b"abcd"]
)
def test_a_client_that_does_not_answer_costs_its_timeout_once(
    server: Server, card: Card, wire: Wire, answer: bytes | None
) -> None:
    wire.ask(Command.DMA_MAP, dma_map(0, PAGE))
    failed: list[int] = []

    def read() -> None:
        for _ in range(50):
            with pytest.raises(DmaError):
                card.bus.read(0, 4)
            failed.append(1)

    thread = threading.Thread(target=read)
    thread.start()
    ident, command, *_ = wire.receive()
    if answer is not None:
        wire.sock.sendall(struct.pack("<HHIII", ident, command, 16 + len(answer), REPLY, 0) + answer)
    thread.join()
    assert len(failed) == 50
    assert server.session is not None
    assert server.session.counters.dma_messages == 1
    assert wire.alive()  # a late reply is dropped, the session goes on
    late = struct.pack("<QQ", 0, 4) + b"abcd"
    wire.sock.sendall(struct.pack("<HHIII", ident, command, 16 + len(late), REPLY, 0) + late)
    assert wire.alive()


def test_a_client_that_sends_on_and_on_instead_of_answering_is_put_out(server: Server, card: Card) -> None:
    card.on_write = lambda bar, offset, value: card.bus.write(0, b"x")
    wire = Wire.to(server.path)
    wire.ask(Command.DMA_MAP, dma_map(0, PAGE))
    write = struct.pack("<QIII", 0, 0, 4, 0)
    put_out = False
    for _ in range(LIMITS.max_held * 10_000):
        try:
            wire.send(Command.REGION_WRITE, write, flags=0x10)
        except ConnectionError:
            put_out = True
            break
    assert put_out
    wire.close()
    card.on_write = lambda bar, offset, value: None
    again = Wire.to(server.path)
    assert again.alive()
    again.close()
