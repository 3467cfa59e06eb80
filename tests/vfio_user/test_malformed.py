"""Whatever comes over the socket: one clear error reply a message, then the session and the device go on."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vfio_wire import COMMAND, ERROR, HEADER, NO_REPLY, REPLY, Card, Wire, memfd, open_fds

from conftest import LIMITS
from gpuvm.vmm.vfio_user import Server, Session
from gpuvm.vmm.vfio_user.bridge import endpoint
from gpuvm.vmm.vfio_user.protocol import Command
from gpuvm.vmm.vfio_user.records import MESSAGES

MOST = LIMITS.max_message
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """One session for all examples: it must survive each of them."""
    with Server(endpoint(Card(), LIMITS), tmp_path_factory.mktemp("m") / "s") as server:
        wire = Wire.to(server.path)
        yield wire
        wire.close()


@pytest.mark.parametrize(
    ("command", "size", "flags"),
    [
        (Command.DEVICE_SET_IRQS, 15, COMMAND),
        (Command.DEVICE_SET_IRQS, 0, COMMAND),
        (Command.DEVICE_SET_IRQS, 16, COMMAND),
        (Command.DEVICE_RESET, 16, REPLY),
        (Command.DMA_READ, 16, REPLY),
        (Command.DMA_READ, 16, COMMAND),
        (Command.DEVICE_RESET, 16, 2),
        (Command.DEVICE_RESET, 16, ERROR),
        (Command.DEVICE_RESET, 16, 0x40),
        (0, 16, COMMAND),
        (19, 16, COMMAND),
        (999, 16, COMMAND),
        (0xFFFF, 16, COMMAND),
    ],
)
def test_a_header_that_makes_no_sense(wire: Wire, card: Card, command: int, size: int, flags: int) -> None:
    assert wire.errno(command, size=size, flags=flags) == errno.EINVAL
    assert wire.alive()
    assert card.log == []


@pytest.mark.parametrize("command", [Command.REGION_WRITE, Command.VERSION, 999])
def test_a_message_too_long_is_answered_before_it_has_come(wire: Wire, command: int) -> None:
    ident = wire.send(command, size=3 * MOST)
    assert wire.receive()[:4] == (ident, command, REPLY | ERROR, errno.EINVAL)
    wire.sock.sendall(bytes(3 * MOST - 16))
    assert wire.alive()


def test_the_longest_message_is_not_too_long(wire: Wire) -> None:
    assert wire.errno(Command.VERSION, bytes(MOST - 16)) == errno.EINVAL
    assert wire.errno(Command.VERSION, bytes(MOST - 15)) == errno.EINVAL
    assert wire.alive()


def test_descriptors_where_none_belong_are_closed(wire: Wire) -> None:
    before = open_fds()
    fd = memfd(1)
    info = struct.pack("<IIII", 16, 0, 0, 0)
    for command, payload, count in (
        (Command.DEVICE_GET_INFO, info, 1),
        (Command.REGION_READ, struct.pack("<QII", 0, 0, 4), 1),
        (Command.REGION_WRITE, struct.pack("<QIII", 0, 0, 4, 0), 2),
        (Command.DEVICE_RESET, b"", 8),
        (Command.DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, 0, 4096), 9),  # more than one message may carry
        (Command.DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, 0, 4096), 200),
        (999, b"", 3),
    ):
        assert wire.errno(command, payload, [fd] * count) == errno.EINVAL
    wire.send(Command.DEVICE_GET_INFO, info, [fd] * 3, flags=NO_REPLY)
    assert wire.alive()
    os.close(fd)
    assert open_fds() <= before


def test_a_descriptor_in_the_middle_of_a_message(wire: Wire) -> None:
    before = open_fds()
    fd = memfd(1)
    message = HEADER.pack(7, Command.REGION_WRITE, 36, 0, 0) + struct.pack("<QIII", 0, 0, 4, 5)
    wire.sock.sendall(message[:20])
    socket.send_fds(wire.sock, [message[20:]], [fd])
    # Dropped with the payload, or seen and refused: it depends on how much has come when the server looks.
    ident, command, _, error, _, _ = wire.receive()
    assert (ident, command) == (7, Command.REGION_WRITE)
    assert error in (0, errno.EINVAL)
    wire.sock.sendall(message[:8])
    socket.send_fds(wire.sock, [message[8:]], [fd])
    assert wire.receive()[3] == errno.EINVAL
    assert wire.alive()
    os.close(fd)
    assert open_fds() <= before


@QUICK
@given(
    command=st.one_of(st.sampled_from([*MESSAGES]), st.integers(0, 0xFFFF)),
    payload=st.binary(max_size=80),
    flags=st.one_of(st.just(0), st.integers(0, 0xFF).filter(lambda flags: not flags & NO_REPLY)),
)
def test_any_payload_gets_one_reply(shared: Wire, command: int, payload: bytes, flags: int) -> None:
    shared.exchange(command, payload, flags=flags)
    assert shared.alive()


FIELD = st.one_of(
    st.integers(0, 40),
    st.sampled_from([0xFFF, 0x1000, 0x2000, 0xFFFF, 0x10000, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1]),
    st.integers(0, (1 << 64) - 1),
)


@QUICK
@given(data=st.data())
def test_any_fields_get_one_reply(shared: Wire, data: st.DataObject) -> None:
    """Records of the right size with fields at their edges; tails and descriptors that may not belong."""
    message = data.draw(st.sampled_from([each for each in MESSAGES.values() if each.request is not None]))
    assert message.request is not None
    fields = [
        data.draw(FIELD, name) % (1 << 8 * struct.calcsize(code)) for name, code in message.request.fields
    ]
    payload = message.request.struct.pack(*fields) + data.draw(st.binary(max_size=48), "tail")
    count = data.draw(st.sampled_from([0, 0, 0, 1, 2]), "descriptors")
    fds = [memfd(2) if data.draw(st.booleans()) else os.eventfd(0) for _ in range(count)]
    try:
        _, _, given_ = shared.exchange(message.command, payload, fds)
        assert given_ == []
    finally:
        for fd in fds:
            os.close(fd)
    assert shared.alive()


MESSAGE = st.tuples(
    st.sampled_from([*MESSAGES, 999]),
    st.one_of(
        st.binary(max_size=40),
        st.just(struct.pack("<QII", 0, 0, 4)),
        st.just(struct.pack("<QIII", 0, 0, 4, 9)),
    ),
    st.booleans(),
)


@QUICK
@given(messages=st.lists(MESSAGE, max_size=30), pieces=st.lists(st.integers(1, 60), min_size=1, max_size=8))
def test_replies_come_in_order_however_the_bytes_are_cut(
    shared: Wire, messages: list[tuple[int, bytes, bool]], pieces: list[int]
) -> None:
    stream, due = b"", []
    for ident, (command, payload, posted) in enumerate(messages):
        stream += HEADER.pack(ident, command, 16 + len(payload), NO_REPLY if posted else 0, 0) + payload
        if not posted:
            due.append((ident, command))
    at = 0
    for turn in range(len(stream)):
        if at >= len(stream):
            break
        size = pieces[turn % len(pieces)] * (1 if len(stream) < 200 else 20)
        shared.sock.sendall(stream[at : at + size])
        at += size
    assert [shared.receive()[:2] for _ in due] == due
    assert shared.alive()


@QUICK
@given(junk=st.binary(max_size=400))
def test_no_bytes_at_all_make_a_session_raise(junk: bytes) -> None:
    """A stream without any framing: errors, silence or the end, but the thread ends by itself and closes."""
    card, before = Card(), open_fds()
    ours, theirs = socket.socketpair()
    session = Session(theirs, endpoint(card, LIMITS))
    raised: list[BaseException] = []

    def run() -> None:
        try:
            session.run()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    ours.sendall(HEADER.pack(0, Command.VERSION, 20, 0, 0) + bytes(4) + junk)
    ours.shutdown(socket.SHUT_WR)
    ours.settimeout(10)
    while ours.recv(1 << 16):
        pass
    ours.close()
    thread.join(10)
    assert not thread.is_alive()
    assert raised == []
    assert open_fds() <= before


def test_the_device_outlives_a_hostile_client(server: Server, card: Card, tmp_path: Path) -> None:
    hostile = Wire.to(server.path)
    hostile.sock.sendall(os.urandom(4096))
    hostile.close()
    wire = Wire.to(server.path)
    wire.write(0, 0, b"abcd")
    assert wire.read(0, 0, 4) == int.from_bytes(b"abcd", "little")
    wire.close()
