"""The in-process machine: RAM at bus address 0, slots, interrupts on a thread of its own."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from gpuvm.gpu import Gf100
from gpuvm.pci.device import Bar
from gpuvm.vmm.inprocess import VirtualMachine

MIB = 1 << 20


class Card:
    """A device that keeps its config writes and lets the test pull its interrupt."""

    def __init__(self, *bars: Bar) -> None:
        self.bars: Sequence[Bar] = bars
        self.config: dict[int, int] = {}
        self.resets = 0
        self.memory: Any = None
        self.pin: Any = None

    def connect(self, memory: Any, interrupts: Any) -> None:
        self.memory, self.pin = memory, interrupts

    def config_read(self, offset: int, size: int) -> int:
        return self.config.get(offset, 0)

    def config_write(self, offset: int, size: int, value: int) -> None:
        self.config[offset] = value

    def reset(self) -> None:
        self.resets += 1


def test_plugging_places_the_bars_and_switches_the_device_on() -> None:
    with VirtualMachine("vm", 4 * MIB) as vm:
        card = Card(Bar(0, 16 * MIB), Bar(1, 128 * MIB, is_64bit=True), Bar(3, 64 * MIB, is_64bit=True))
        vm.plug(card)  # type: ignore[arg-type]
        places = [
            card.config[0x10] | 0,
            card.config[0x14] | card.config[0x18] << 32,
            card.config[0x1C] | card.config[0x20] << 32,
        ]
        assert [place % bar.size for place, bar in zip(places, card.bars, strict=True)] == [0, 0, 0]
        spans = sorted((place, place + bar.size) for place, bar in zip(places, card.bars, strict=True))
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
        assert spans[0][0] >= vm.memory.size
        assert card.config[4] == 6
        vm.memory.write(0x100, b"dma")
        assert card.memory.read(0x100, 3) == b"dma"
        with pytest.raises(ValueError, match="once"):
            vm.plug(card)  # type: ignore[arg-type]
    assert card.resets == 1


def test_a_message_calls_the_handler_on_the_machines_thread() -> None:
    with VirtualMachine("vm", 4 * MIB) as vm:
        card, other = Card(), Card()
        vm.plug(card)  # type: ignore[arg-type]
        vm.plug(other)  # type: ignore[arg-type]
        called: list[str] = []
        arrived = threading.Semaphore(0)

        def handler() -> None:
            called.append(threading.current_thread().name)
            arrived.release()

        vm.on_interrupt(card, handler)  # type: ignore[arg-type]
        card.pin.message(0)
        other.pin.message(0)
        assert arrived.acquire(timeout=5)
        assert not arrived.acquire(timeout=0.05)
        vm.on_interrupt(card, None)  # type: ignore[arg-type]
        card.pin.message(0)
        assert not arrived.acquire(timeout=0.05)
        assert called == ["vm-interrupts"]


def test_an_asserted_line_calls_until_it_falls() -> None:
    with VirtualMachine("vm", 4 * MIB) as vm:
        card = Card()
        vm.plug(card)  # type: ignore[arg-type]
        calls = 0
        fell = threading.Event()

        def handler() -> None:
            nonlocal calls
            calls += 1
            if calls == 3:
                card.pin.level(False)
                fell.set()

        vm.on_interrupt(card, handler)  # type: ignore[arg-type]
        card.pin.level(True)
        assert fell.wait(5)
        assert not threading.Event().wait(0.03)
        assert calls == 3


def test_a_handler_that_fails_does_not_end_the_machine() -> None:
    with VirtualMachine("vm", 4 * MIB) as vm:
        card = Card()
        vm.plug(card)  # type: ignore[arg-type]
        arrived = threading.Semaphore(0)

        def handler() -> None:
            arrived.release()
            raise RuntimeError("a bug in the guest's driver")

        vm.on_interrupt(card, handler)  # type: ignore[arg-type]
        for _ in range(2):
            card.pin.message(0)
            assert arrived.acquire(timeout=5)


def test_pages_are_handed_out_zeroed() -> None:
    with VirtualMachine("vm", 4 * MIB) as vm:
        runs = vm.pages.allocate(3 * 4096)
        vm.memory.write(runs[0][0], b"old")
        vm.pages.free(runs)
        again = vm.pages.allocate(3 * 4096)
        assert vm.memory.read(again[0][0], 3) == bytes(3)


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ValueError, match="at least 1 MiB of RAM, got 4096 bytes"):
        VirtualMachine("vm", 4096)
    vm = VirtualMachine("vm", 4 * MIB)
    with pytest.raises(ValueError, match="must be plugged into 'vm' first"):
        vm.on_interrupt(Card(), print)  # type: ignore[arg-type]
    vm.close()
    vm.close()
    with pytest.raises(RuntimeError, match="must not be closed"):
        vm.plug(Card())  # type: ignore[arg-type]


def test_a_gpu_can_move_from_one_machine_to_the_next() -> None:
    with Gf100(vram=16 * MIB) as gpu:
        for name in ("first", "second"):
            with VirtualMachine(name, 4 * MIB) as vm:
                vm.plug(gpu)
                assert vm.devices == (gpu,)
                assert gpu.read(0, 0, 4) == 0x0C0080A1
