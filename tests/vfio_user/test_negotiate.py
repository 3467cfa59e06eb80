"""VERSION: what a client may propose, what it gets, and that nothing else goes before it or twice."""

from __future__ import annotations

import errno
import json
import struct

import pytest
from vfio_wire import Wire

from gpuvm.vmm.vfio_user import Server, State
from gpuvm.vmm.vfio_user.protocol import Command


def propose(server: Server, payload: bytes) -> tuple[int, bytes, Wire]:
    wire = Wire.to(server.path, negotiate=False)
    error, data, _ = wire.exchange(Command.VERSION, payload)
    return error, data, wire


V0 = struct.pack("<HH", 0, 0)
QEMU = {
    "capabilities": {
        "max_msg_fds": 16,
        "max_dma_maps": 65535,
        "max_data_xfer_size": 1 << 20,
        "pgsizes": 4096,
        "migration": {"pgsize": 4096, "max_bitmap_size": 1 << 28},
        "write_multiple": True,
    }
}


@pytest.mark.parametrize(
    ("data", "multiple"),
    [
        (b"", False),
        (b"{}\0", False),
        (b'{"capabilities": {}}\0', False),
        (b'{"capabilities": {"new": [1]}, "more": 1}\0', False),
        (json.dumps(QEMU).encode() + b"\0", True),
    ],
)
def test_what_is_agreed(server: Server, data: bytes, multiple: bool) -> None:
    error, reply, wire = propose(server, V0 + data)
    assert error == 0
    assert struct.unpack_from("<HH", reply) == (0, 0)
    assert reply.endswith(b"\0")
    offered = json.loads(reply[4:-1])["capabilities"]
    assert offered == {
        "max_msg_fds": 8,
        "max_data_xfer_size": 1 << 16,
        "max_dma_maps": 8,
        "pgsizes": 4096,
        **({"write_multiple": True} if multiple else {}),
    }
    assert server.session is not None
    assert server.session.state is State.RUNNING
    assert wire.alive()
    wire.close()


def test_a_newer_minor_gets_ours(server: Server) -> None:
    error, reply, wire = propose(server, struct.pack("<HH", 0, 7))
    assert (error, reply[:4]) == (0, V0)
    wire.close()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0\0\0",
        struct.pack("<HH", 999, 0),
        V0 + b"{}",
        V0 + b"{\0",
        V0 + b'"\0',
        V0 + b"\xff\0",
        V0 + b"[]\0",
        V0 + b"[" * 9000 + b"\0",
        V0 + b'{"capabilities": "23"}\0',
        V0 + b'{"capabilities": {"max_msg_fds": "foo"}}\0',
        V0 + b'{"capabilities": {"max_msg_fds": -1}}\0',
        V0 + b'{"capabilities": {"max_msg_fds": true}}\0',
        V0 + b'{"capabilities": {"max_msg_fds": 1025}}\0',
        V0 + b'{"capabilities": {"max_data_xfer_size": 0}}\0',
        V0 + b'{"capabilities": {"max_data_xfer_size": 1.5}}\0',
        V0 + b'{"capabilities": {"max_dma_maps": ' + b"9" * 5000 + b"}}\0",
        V0 + b'{"capabilities": {"migration": "23"}}\0',
        V0 + b'{"capabilities": {"migration": {"pgsize": "foo"}}}\0',
        V0 + b'{"capabilities": {"migration": {"pgsize": 4097}}}\0',
        V0 + b'{"capabilities": {"twin_socket": 1}}\0',
        V0 + b'{"capabilities": {"write_multiple": 1}}\0',
        V0 + b" " * 20000 + b"{}\0",
    ],
    ids=lambda payload: payload[:60].decode("latin1"),
)
def test_what_is_refused(server: Server, payload: bytes) -> None:
    error, _, wire = propose(server, payload)
    assert error == errno.EINVAL
    assert server.session is not None
    assert server.session.state is State.NEGOTIATING
    wire.ask(Command.VERSION, V0)
    assert wire.alive()
    wire.close()


def test_version_is_first(server: Server) -> None:
    wire = Wire.to(server.path, negotiate=False)
    assert wire.errno(Command.DEVICE_RESET) == errno.EINVAL
    assert wire.errno(Command.REGION_READ, struct.pack("<QII", 0, 0, 4)) == errno.EINVAL
    assert wire.errno(Command.REGION_WRITE, struct.pack("<QIII", 0, 0, 4, 1)) == errno.EINVAL
    wire.ask(Command.VERSION, V0)
    assert wire.errno(Command.VERSION, V0) == errno.EINVAL
    assert wire.alive()
    wire.close()
