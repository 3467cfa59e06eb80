"""Sessions: their end, the next one, two at once, and what a server leaves behind."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from vfio_wire import Card, Wire, eventually, memfd, open_fds

from conftest import LIMITS
from gpuvm.vmm.vfio_user import Client, Disconnected, Endpoint, RemoteError, Server, State
from gpuvm.vmm.vfio_user.bridge import endpoint
from gpuvm.vmm.vfio_user.protocol import Command


def test_the_device_keeps_its_state_from_client_to_client(server: Server, card: Card) -> None:
    for round_ in range(5):
        wire = Wire.to(server.path)
        assert wire.read(0, 0x40, 4) == round_
        wire.write(0, 0x40, struct.pack("<I", round_ + 1))
        wire.close()
    assert ("reset",) not in card.log
    assert server.clients == 5


def test_a_second_client_is_told_that_there_is_one(server: Server, wire: Wire) -> None:
    with pytest.raises(RemoteError, match="must accept VERSION; it answered EBUSY") as told:
        Client(server.path)
    assert told.value.errno == errno.EBUSY
    assert wire.alive()
    wire.close()
    with Client(server.path) as next_:
        assert next_.read(7, 0, 2) == 0x1AF4


def test_half_a_message_and_the_end(server: Server) -> None:
    """However much of a message a dying client sent, the next finds the device free."""
    before = open_fds()
    whole = struct.pack("<HHIII", 1, Command.REGION_WRITE, 36, 0, 0) + struct.pack("<QIII", 0, 0, 4, 7)
    for length in range(0, len(whole), 5):
        wire = Wire.to(server.path)
        wire.sock.sendall(whole[:length])
        wire.close()
    assert eventually(lambda: open_fds() == before)
    wire = Wire.to(server.path)
    assert wire.read(0, 0, 4) == 0
    wire.close()


def test_a_message_in_pieces_is_one_message(wire: Wire, card: Card) -> None:
    whole = struct.pack("<HHIII", 9, Command.REGION_WRITE, 36, 0, 0) + struct.pack("<QIII", 0, 0, 4, 7)
    wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    for byte in whole:
        wire.sock.sendall(bytes([byte]))
    assert wire.receive()[:4] == (9, Command.REGION_WRITE, 1, 0)
    assert wire.read(0, 0, 4) == 7


def test_a_client_that_reads_no_replies_does_not_hold_the_server(server: Server) -> None:
    wire = Wire.to(server.path)
    wire.sock.setblocking(False)
    message = struct.pack("<HHIII", 1, Command.REGION_READ, 32, 0, 0) + struct.pack("<QII", 0, 2, 1 << 16)
    stuck = time.monotonic() + 0.05
    while time.monotonic() < stuck:  # until the server has taken nothing for that long
        try:
            wire.sock.send(message * 64)
            stuck = time.monotonic() + 0.05
        except BlockingIOError:
            time.sleep(0.001)
    server.disconnect()
    assert eventually(lambda: server.session is None)
    wire.close()


def test_the_server_ends_the_session(server: Server, wire: Wire) -> None:
    session = server.session
    assert session is not None
    server.disconnect()
    assert session.state is State.CLOSED
    with pytest.raises(ConnectionError):
        wire.alive()
    with Client(server.path) as client:
        assert client.device_info().regions == 9


def test_a_closed_server_leaves_nothing(tmp_path: Path) -> None:
    threads, fds = threading.active_count(), open_fds()
    card = Card()
    server = Server(endpoint(card, LIMITS), tmp_path / "s")
    assert (os.stat(server.path).st_mode & 0o777) == 0o600
    wire = Wire.to(server.path)
    ram = memfd(1)
    wire.ask(Command.DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, 0, 4096), [ram])
    server.close()
    server.close()
    wire.close()
    os.close(ram)
    assert not server.path.exists()
    assert (threading.active_count(), open_fds()) == (threads, fds)
    assert list(card.bus.regions()) == []


def test_the_path_of_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    with Server(Endpoint([]), path):
        with pytest.raises(OSError, match="another server listens") as told:
            Server(Endpoint([]), path)
        assert told.value.errno == errno.EADDRINUSE
    path.write_text("a file")
    with pytest.raises(FileExistsError, match="must be free or a socket"):
        Server(Endpoint([]), path)
    assert path.read_text() == "a file"


def test_a_client_whose_server_goes(server: Server) -> None:
    client = Client(server.path)
    server.disconnect()
    with pytest.raises(Disconnected):
        client.read(0, 0, 4)
    client.close()
    with pytest.raises(Disconnected, match="the client is closed"):
        client.read(0, 0, 4)


def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    with pytest.raises(Disconnected, match=r"did not answer within 0\.05 s"):
        Client(tmp_path / "s", timeout_s=0.05)
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        Client(tmp_path / "s")


def test_an_endpoint_has_at_most_the_protocols_regions() -> None:
    from gpuvm.vmm.vfio_user.regions import ABSENT

    with pytest.raises(ValueError, match="at most 9 regions, got 10"):
        Endpoint([ABSENT] * 10)
