"""A device in another process as a device of this machine: the same card through a server, and a GPU that the
guest's CUDA driver uses without noticing.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from vfio_wire import Card, eventually, open_fds

from gpuvm.guest.cuda import Cuda
from gpuvm.guest.injection import run_program
from gpuvm.pci.config import COMMAND, MSI
from gpuvm.pci.device import PciDevice
from gpuvm.pci.memory import PAGE, BusMemory, MemoryRegion
from gpuvm.vmm.inprocess import VirtualMachine
from gpuvm.vmm.vfio_user import Client, IrqIndex, RemoteError, Server
from gpuvm.vmm.vfio_user.bridge import vectors
from gpuvm.vmm.vfio_user.remote import RemoteDevice

PROGRAMS = Path(__file__).parent.parent / "guest" / "programs"


class Line:
    """Hears interrupts."""

    def __init__(self) -> None:
        self.messages = 0
        self.levels: list[bool] = []

    def message(self, vector: int) -> None:
        self.messages += 1

    def level(self, asserted: bool) -> None:
        self.levels.append(asserted)


@pytest.fixture
def remote(server: Server) -> Iterator[RemoteDevice]:
    made = RemoteDevice(server.path)
    yield made
    made.close()


def test_it_looks_like_the_device(remote: RemoteDevice, card: Card) -> None:
    device: PciDevice = remote
    assert tuple(device.bars) == tuple(card.bars)
    assert device.config_read(0, 4) == 0x1234_1AF4
    device.config_write(0x3C, 1, 0x0B)
    assert card.config.read(0x3C, 1) == 0x0B
    device.write(2, 0x100, 8, 0x1122334455667788)
    assert device.read(2, 0x104, 2) == 0x3344
    assert card.log == [("write", 2, 0x100, 8, 0x1122334455667788), ("read", 2, 0x104, 2)]
    data = bytes(range(256)) * 256
    device.write_block(2, 0, data)
    assert device.read_block(2, 0, len(data)) == data
    device.reset()
    assert card.log[-1] == ("reset",)


def test_what_nothing_answers_reads_zero_and_drops(remote: RemoteDevice) -> None:
    remote.write(5, 0, 4, 1)
    remote.write(0, 1 << 40, 4, 1)
    assert remote.read(5, 0, 4) == 0
    assert remote.read(0, 0x2000, 4) == 0
    assert remote.read_block(0, 0x1FFF, 2) == bytes(2)
    assert remote.config_read(0x1000, 4) == 0xFFFFFFFF


def test_dma_reaches_the_machines_memory(remote: RemoteDevice, card: Card) -> None:
    low, high = MemoryRegion(4 * PAGE), MemoryRegion(8 * PAGE)
    bus = BusMemory()
    bus.add(0, low)
    bus.add(1 << 32, high)
    remote.connect(bus, Line())
    card.bus.write(PAGE, b"low")
    card.bus.write((1 << 32) + 7 * PAGE, b"high")
    assert low.read(PAGE, 3) == b"low"
    assert high.read(7 * PAGE, 4) == b"high"
    remote.connect(BusMemory(), Line())
    assert list(card.bus.regions()) == []
    low.close()
    high.close()


def test_interrupts_follow_what_the_guest_switches_on(remote: RemoteDevice, card: Card) -> None:
    line = Line()
    remote.connect(BusMemory(), line)
    assert card.pin is not None
    card.pin.message(0)  # nobody has switched messages on
    card.pin.level(True)
    assert eventually(lambda: line.levels[:4] == [True, False] * 2)  # again until it falls
    card.pin.level(False)
    remote.config_write(MSI + 2, 2, 1)
    remote.config_write(COMMAND, 2, 6)
    line.levels.clear()
    card.pin.level(True)
    for count in range(1, 4):
        card.pin.message(0)
        assert eventually(lambda count=count: line.messages == count)
    assert line.levels == []
    remote.config_write(MSI + 2, 2, 0)
    assert eventually(lambda: line.levels[:2] == [True, False])
    remote.reset()


def test_a_card_counts_its_vectors() -> None:
    assert vectors(Card()) == {IrqIndex.INTX: 1, IrqIndex.MSI: 1}
    card = Card()
    capability = {0x60: 0x11, 0x61: 0x70, 0x62: 0x07FF, 0x70: 0x05, 0x71: 0x60, 0x72: 0x0A}  # it goes round
    config = card.config_read
    card.config_read = lambda offset, size: capability.get(offset, config(offset, size))  # type: ignore[method-assign]
    assert vectors(card) == {IrqIndex.INTX: 1, IrqIndex.MSIX: 2048, IrqIndex.MSI: 32}


def test_a_lost_server_is_a_card_pulled_out(server: Server, card: Card) -> None:
    before = open_fds(), threading.active_count()
    remote = RemoteDevice(server.path)
    line = Line()
    bus = BusMemory()
    bus.add(0, ram := MemoryRegion(PAGE))
    remote.connect(bus, line)
    server.disconnect()
    assert remote.read(0, 0, 4) == 0xFFFFFFFF
    assert remote.lost
    remote.write(0, 0, 4, 1)
    remote.write_block(0, 0, b"12345678")
    assert remote.config_read(0, 2) == 0xFFFF
    assert remote.read_block(0, 0, 3) == b"\xff\xff\xff"
    remote.config_write(MSI + 2, 2, 1)
    remote.reset()
    assert card.log == []
    remote.reconnect()
    assert not remote.lost
    remote.write(0, 0, 4, 5)
    assert remote.read(0, 0, 4) == 5
    card.bus.write(0, b"again")
    assert ram.read(0, 5) == b"again"
    assert card.pin is not None
    card.pin.level(True)
    assert eventually(lambda: len(line.levels) > 0)
    remote.close()
    remote.close()
    ram.close()
    assert eventually(lambda: (open_fds(), threading.active_count()) == before)


def test_a_client_library_without_a_machine(server: Server, card: Card) -> None:
    with Client(server.path) as client:
        client.write_multi([(2, 4 * at, 4, at * at) for at in range(1000)])
        assert client.read(2, 4 * 999, 4) == 999 * 999
        assert server.session is not None
        assert server.session.counters.posted == 5
        client.write_multi([(0, 0, 1, 1), (0, 1, 1, 2)], posted=False)
        assert card.memory[0][:2] == b"\1\2"
        assert client.irq_info(IrqIndex.MSI).count == 1
        client.mask(IrqIndex.MSI)
        client.unmask(IrqIndex.MSI)
        client.trigger(IrqIndex.MSI)
        client.ignore(IrqIndex.MSI)
        with pytest.raises(ValueError, match="either a file descriptor or a memory"):
            client.dma_map(0, PAGE)


def test_writes_one_behind_the_other_are_merged_where_that_is_allowed(server: Server, card: Card) -> None:
    run = [(2, 0x100 + 8 * at, 8, at) for at in range(6)]
    with Client(server.path) as client:
        client.write_multi(
            [
                *run,
                (2, 0x130, 4, 7),  # another size
                (2, 0x200, 4, 1),  # another place
                (2, 0x204, 4, 2),
                *[(0, 4 * at, 4, at) for at in range(5)],  # registers, one by one
                *[(2, 0xFFF8 - 4 * at, 4, at) for at in range(5)],  # backwards
                *[(2, 0x301 + 4 * at, 4, at) for at in range(5)],  # askew
            ],
            posted=False,
        )
    assert card.log[:2] == [("write_block", 2, 0x100, 48), ("write", 2, 0x130, 4, 7)]
    assert [entry[0] for entry in card.log[1:]] == ["write"] * 18
    assert card.memory[2][0x100:0x130] == b"".join(at.to_bytes(8, "little") for at in range(6))


def test_a_run_ends_where_the_region_does(server: Server, card: Card) -> None:
    with Client(server.path) as client, pytest.raises(RemoteError):
        client.write_multi([(2, 0xFFE0 + 8 * at, 8, at) for at in range(6)], posted=False)
    assert card.log == [("write_block", 2, 0xFFE0, 32)]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """A GF100 in a process of its own."""
    path = tmp_path / "gpu"
    command = [sys.executable, str(Path(__file__).parent / "served_gpu.py"), str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield path
    finally:
        process.stdin.close()
        status = process.wait(30)
        process.stdout.close()
    assert status == 0
    assert not path.exists()


def test_cuda_on_a_gpu_in_another_process(served: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One machine after another uses it, each with its own memory; the GPU stays."""
    pytest.importorskip("cuda.bindings.nvrtc")
    for size in (3000, 100):
        remote = RemoteDevice(served)
        with VirtualMachine("guest", 64 << 20) as machine:
            machine.plug(remote)
            cuda = Cuda(machine)
            assert run_program(cuda, PROGRAMS / "vector_add.py", [str(size)]) == 0
            cuda.close()
        remote.close()
    assert capsys.readouterr().out == "3000 sums are right\n100 sums are right\n"


def test_a_gpu_outlives_a_machine_that_dies(served: Path) -> None:
    """The client is killed in the middle of its work; the next one resets the GPU and goes on."""
    code = (
        "import os, sys; from gpuvm.vmm.vfio_user.remote import RemoteDevice;"
        "from gpuvm.vmm.inprocess import VirtualMachine; from gpuvm.guest.cuda import Cuda;"
        "vm = VirtualMachine('dies', 32 << 20); vm.plug(RemoteDevice(sys.argv[1])); cuda = Cuda(vm);"
        "cuda.cuInit(0); cuda.cuCtxCreate(0, 0); cuda.cuMemAlloc(1 << 20); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(served)], check=False)
    assert done.returncode == -9
    remote = RemoteDevice(served)
    remote.reset()
    with VirtualMachine("next", 32 << 20) as machine:
        machine.plug(remote)
        cuda = Cuda(machine)
        assert run_program(cuda, PROGRAMS / "streams.py") == 0
        cuda.close()
    remote.close()
