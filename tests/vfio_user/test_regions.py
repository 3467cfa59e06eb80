"""What a client learns of a device and its regions, and how it reads and writes them."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest
from vfio_wire import NO_REPLY, Card, Wire, memfd

from gpuvm.vmm.vfio_user import Client, Endpoint, Region, RegionFlags, Server, memory_region
from gpuvm.vmm.vfio_user.protocol import Command

CONFIG, ROM, VGA = 7, 6, 8


def info_request(index: int, argsz: int = 32) -> bytes:
    return struct.pack("<IIIIQQ", argsz, 0, index, 0, 0, 0)


def access(offset: int, region: int, count: int) -> bytes:
    return struct.pack("<QII", offset, region, count)


def test_device_info(wire: Wire) -> None:
    for argsz in (16, 32):
        request = struct.pack("<IIII", argsz, 0, 0, 0)
        assert struct.unpack("<IIII", wire.ask(Command.DEVICE_GET_INFO, request)) == (16, 3, 9, 5)
    assert wire.errno(Command.DEVICE_GET_INFO, struct.pack("<II", 0, 0)) == errno.EINVAL
    assert wire.errno(Command.DEVICE_GET_INFO, struct.pack("<IIII", 8, 0, 0, 0)) == errno.EINVAL


@pytest.mark.parametrize(
    ("index", "flags", "size"),
    [(0, 3, 0x2000), (1, 0, 0), (2, 3, 0x10000), (3, 0, 0), (ROM, 0, 0), (CONFIG, 3, 256), (VGA, 0, 0)],
)
def test_region_info(wire: Wire, index: int, flags: int, size: int) -> None:
    for argsz in (32, 40):
        reply = wire.ask(Command.DEVICE_GET_REGION_INFO, info_request(index, argsz))
        assert struct.unpack("<IIIIQQ", reply) == (32, flags, index, 0, size, 0)


def test_region_info_refused(wire: Wire) -> None:
    for request in (struct.pack("<II", 0, 0), info_request(0, 8), info_request(9), info_request(0xFFFFFFFF)):
        assert wire.errno(Command.DEVICE_GET_REGION_INFO, request) == errno.EINVAL


@pytest.fixture
def mappable(tmp_path: Path) -> tuple[Endpoint, Path, int]:
    """BAR2 has a file behind it at 0x8000, two areas of which may be mapped; all of BAR3 may be."""
    fd = memfd(32)
    plain = memory_region(bytearray(0x8000))
    callbacks = (plain.read, plain.write, plain.read_block, plain.write_block)
    both = RegionFlags.READ | RegionFlags.WRITE
    areas = ((0x2000, 0x1000), (0x4000, 0x2000))
    sparse = Region(0x8000, *callbacks, both, fd, 0x8000, areas)
    whole = Region(0x8000, *callbacks, both, fd)
    return Endpoint([plain, memory_region(bytearray(64), writable=False), sparse, whole]), tmp_path / "m", fd


def test_sparse_areas(mappable: tuple[Endpoint, Path, int]) -> None:
    endpoint, path, fd = mappable
    with Server(endpoint, path):
        wire = Wire.to(path)
        # Too little room: how much it takes, with cap_offset already there (QEMU), and no descriptor yet.
        error, reply, fds = wire.exchange(Command.DEVICE_GET_REGION_INFO, info_request(2))
        assert (error, fds) == (0, [])
        assert struct.unpack("<IIIIQQ", reply) == (80, 0xF, 2, 32, 0x8000, 0x8000)
        error, reply, fds = wire.exchange(Command.DEVICE_GET_REGION_INFO, info_request(2, 80) + bytes(48))
        assert error == 0
        assert struct.unpack_from("<IIIIQQ", reply) == (80, 0xF, 2, 32, 0x8000, 0x8000)
        assert struct.unpack_from("<HHIII", reply, 32) == (1, 1, 0, 2, 0)
        assert struct.unpack_from("<QQQQ", reply, 48) == (0x2000, 0x1000, 0x4000, 0x2000)
        assert len(fds) == 1
        assert os.path.sameopenfile(fds[0], fd)
        os.close(fds[0])
        error, reply, fds = wire.exchange(Command.DEVICE_GET_REGION_INFO, info_request(3))
        assert struct.unpack("<IIIIQQ", reply) == (32, 0x7, 3, 0, 0x8000, 0)
        assert len(fds) == 1
        os.close(fds[0])
        wire.close()
        with Client(path) as client:
            details = client.region_info(2)
            assert [(area.offset, area.size) for area in details.areas] == [
                (0x2000, 0x1000),
                (0x4000, 0x2000),
            ]
            assert os.path.sameopenfile(details.fd, fd)
            os.close(details.fd)
            assert client.region_info(0).fd == -1
    os.close(fd)


def test_a_region_for_reading_only(mappable: tuple[Endpoint, Path, int]) -> None:
    endpoint, path, fd = mappable
    with Server(endpoint, path):
        wire = Wire.to(path)
        assert wire.read(1, 60, 4) == 0
        assert wire.errno(Command.REGION_WRITE, access(0, 1, 4) + b"abcd") == errno.EINVAL
        wire.close()
    os.close(fd)


def test_areas_must_be_pages_of_the_region() -> None:
    plain = memory_region(bytearray(0x2000))
    callbacks = (plain.read, plain.write, plain.read_block, plain.write_block)
    for area in ((0, 0x800), (0x1000, 0x2000), (0x10, 0x1000), (0, 0)):
        with pytest.raises(ValueError, match="a mappable area must be whole pages"):
            Region(0x2000, *callbacks, plain.flags, 0, 0, (area,))
    with pytest.raises(ValueError, match="must have a file descriptor"):
        Region(0x2000, *callbacks, plain.flags, -1, 0, ((0, 0x1000),))


def test_region_io_fds(wire: Wire) -> None:
    ask = struct.Struct("<IIII")
    assert ask.unpack(wire.ask(Command.DEVICE_GET_REGION_IO_FDS, ask.pack(512, 0, 2, 0))) == (16, 0, 2, 0)
    bad = [
        (512, 1, 2, 0),
        (512, 0, 2, 1),
        (15, 0, 2, 0),
        ((1 << 16) + 1, 0, 2, 0),
        (512, 0, 1, 0),
        (512, 0, 512, 0),
    ]
    for request in bad:
        assert wire.errno(Command.DEVICE_GET_REGION_IO_FDS, ask.pack(*request)) == errno.EINVAL, request


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_an_access_reaches_the_device_as_it_is(wire: Wire, card: Card, size: int) -> None:
    data = bytes(range(0xA1, 0xA1 + size))
    wire.write(2, 0x128, data)
    assert wire.read(2, 0x128, size) == int.from_bytes(data, "little")
    value = int.from_bytes(data, "little")
    assert card.log == [("write", 2, 0x128, size, value), ("read", 2, 0x128, size)]


def test_blocks_are_words_with_bytes_around_them(wire: Wire, card: Card) -> None:
    data = bytes(range(1, 22))
    wire.write(0, 0x1E, data)
    assert card.log == [
        *[("write", 0, 0x1E + at, 1, 1 + at) for at in range(2)],
        ("write_block", 0, 0x20, 16),
        *[("write", 0, 0x30 + at, 1, 19 + at) for at in range(3)],
    ]
    card.log.clear()
    reply = wire.ask(Command.REGION_READ, access(0x1E, 0, 21))
    assert reply == access(0x1E, 0, 21) + data
    assert card.log[2] == ("read_block", 0, 0x20, 16)
    assert len(card.log) == 6


def test_the_largest_transfer(wire: Wire, card: Card) -> None:
    data = os.urandom(1 << 16)
    wire.write(2, 0, data)
    assert bytes(card.memory[2]) == data
    assert wire.ask(Command.REGION_READ, access(0, 2, 1 << 16))[16:] == data


def test_configuration_space(wire: Wire, card: Card) -> None:
    assert wire.read(CONFIG, 0, 4) == 0x1234_1AF4
    wire.write(CONFIG, 0x10, b"\xff\xff\xff\xff")
    assert wire.read(CONFIG, 0x10, 4) == 0xFFFFE000
    assert len(wire.ask(Command.REGION_READ, access(0, CONFIG, 256))) == 272
    wire.write(CONFIG, 0x3C, b"\x0b\x00\x00")
    assert card.config.read(0x3C, 1) == 0x0B


@pytest.mark.parametrize(
    "request_",
    [
        access(0x2000, 0, 4),
        access(0x1FFE, 0, 4),
        access(0, 1, 4),
        access(0, 9, 4),
        access(0, 0xFFFFFFFF, 4),
        access((1 << 64) - 4, 0, 4),
        access((1 << 64) - 2, 0, 8),
        access(0, 2, (1 << 16) + 1),
        access(0, 2, 0xFFFFFFFF),
        b"short",
    ],
)
def test_accesses_refused(wire: Wire, card: Card, request_: bytes) -> None:
    assert wire.errno(Command.REGION_READ, request_) == errno.EINVAL
    assert wire.errno(Command.REGION_WRITE, request_ + b"abcd") == errno.EINVAL
    assert card.log == []
    assert wire.alive()


def test_a_write_brings_the_bytes_it_says(wire: Wire, card: Card) -> None:
    for said, data in ((4, b"abc"), (4, b"abcde"), (4, b"abcdefgh"), (8, b"abcd"), (4, b""), (0, b"a")):
        assert wire.errno(Command.REGION_WRITE, access(0, 0, said) + data) == errno.EINVAL
    assert wire.errno(Command.REGION_READ, access(0, 0, 4) + b"abcd") == 0
    assert [entry[0] for entry in card.log] == ["read"]


def test_an_empty_access_is_none(wire: Wire, card: Card) -> None:
    assert wire.ask(Command.REGION_READ, access(0, 0, 0)) == access(0, 0, 0)
    assert wire.ask(Command.REGION_WRITE, access(0, 0, 0)) == access(0, 0, 0)
    assert card.log == []


def test_posted_writes_are_in_order_and_not_answered(wire: Wire, card: Card, server: Server) -> None:
    for value in range(200):
        wire.send(Command.REGION_WRITE, access(8, 0, 4) + struct.pack("<I", value), flags=NO_REPLY)
    wire.send(Command.REGION_WRITE, access(0x9000, 0, 4) + b"abcd", flags=NO_REPLY)  # wrong: nobody is told
    assert wire.read(0, 8, 4) == 199
    assert [entry[4] for entry in card.log[:-1]] == list(range(200))
    assert server.session is not None
    assert (server.session.counters.posted, server.session.counters.errors) == (200, 1)


def multi(*writes: tuple[int, int, int, int], count: int | None = None) -> bytes:
    entries = b"".join(struct.pack("<QIIQ", *write) for write in writes)
    return struct.pack("<Q", len(writes) if count is None else count) + entries


def test_many_writes_in_one_message(wire: Wire, card: Card) -> None:
    wire.send(
        Command.REGION_WRITE_MULTI,
        multi((0, 0, 4, 0xFFFFFFFF_11223344), (4, 0, 1, 0x55), (16, 2, 8, 1 << 63)),
        flags=NO_REPLY,
    )
    assert wire.read(0, 0, 8) == 0x55_11223344
    assert card.log[:3] == [
        ("write", 0, 0, 4, 0x11223344),
        ("write", 0, 4, 1, 0x55),
        ("write", 2, 16, 8, 1 << 63),
    ]
    assert wire.ask(Command.REGION_WRITE_MULTI, multi()) == b""
    assert wire.ask(Command.REGION_WRITE_MULTI, multi(*[(8, 0, 4, 7)] * 200)) == b""


@pytest.mark.parametrize(
    "request_",
    [
        multi((0, 0, 3, 0)),
        multi((0, 0, 0, 0)),
        multi((0, 0, 4, 0), count=2),
        multi((0, 0, 4, 0), count=1 << 60),
        multi((0x1FFD, 0, 4, 0)),
        multi((0, 1, 4, 0)),
        multi((0, 99, 4, 0)),
        b"1234567",
    ],
)
def test_many_writes_refused(wire: Wire, card: Card, request_: bytes) -> None:
    assert wire.errno(Command.REGION_WRITE_MULTI, request_) == errno.EINVAL
    assert card.log == []
    assert wire.alive()


def test_reset(wire: Wire, card: Card) -> None:
    assert wire.ask(Command.DEVICE_RESET) == b""
    assert card.log == [("reset",)]
    assert wire.errno(Command.DEVICE_RESET, b"x") == errno.EINVAL
    assert card.log == [("reset",)]


@pytest.mark.parametrize(
    "command",
    [Command.DIRTY_PAGES, Command.DEVICE_FEATURE, Command.MIG_DATA_READ, Command.MIG_DATA_WRITE],
)
def test_migration_and_dirty_pages_are_not_supported_and_said_so(wire: Wire, command: Command) -> None:
    assert wire.errno(command, bytes(24)) == errno.ENOTSUP
    assert wire.alive()


def test_a_device_that_fails_is_an_io_error(wire: Wire, card: Card, caplog: pytest.LogCaptureFixture) -> None:
    def fail(bar: int, offset: int, value: int) -> None:
        raise RuntimeError("a bug in the device")

    card.on_write = fail
    for payload in (access(0, 0, 4) + b"abcd", access(0, 0, 3) + b"abc"):
        assert wire.errno(Command.REGION_WRITE, payload) == errno.EIO
    assert wire.errno(Command.REGION_WRITE_MULTI, multi((0, 0, 4, 0))) == errno.EIO
    wire.send(Command.REGION_WRITE, access(0, 0, 4) + b"abcd", flags=NO_REPLY)
    assert wire.alive()
    assert len(caplog.records) == 1
