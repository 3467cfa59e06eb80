"""A para-virtual guest without a driver: it fills slots and writes registers itself, so that a test can write
wrong ones."""

from __future__ import annotations

import struct
from typing import Any

from gpuvm.gpu import Gf100, paging
from gpuvm.gpu.paging import MmuFault, Root
from gpuvm.gpu.physical import PhysicalMemory, Target
from gpuvm.hypervisor import Aggregator
from gpuvm.paravirt.abi import (
    AREA_SIZE,
    ARGUMENT_LAYOUTS,
    ARGUMENTS,
    CALL_BAR,
    RESULT_LAYOUTS,
    SLOT_SIZE,
    Op,
    Register,
    Result,
)
from gpuvm.vmm.inprocess import VirtualMachine

MIB = 1 << 20
AREA = 0x10000
SHARED = AREA + AREA_SIZE
LIMIT = (1 << 40) - 1


class Caller:
    """One VM with a para-virtual GPU; its call area lies at `AREA`, the shared page behind it."""

    def __init__(self, aggregator: Aggregator, mode: str, name: str = "guest", ram: int = 8 * MIB) -> None:
        self.device: Any = aggregator.create(name, mode, vram=16 * MIB, channels=4)
        self.vm = VirtualMachine(name, ram)
        self.vm.plug(self.device)
        self.register(Register.AREA_LOW, AREA)
        self.register(Register.SHARED_LOW, SHARED)

    def register(self, register: int, value: int) -> None:
        self.device.write(CALL_BAR, register, 4, value)

    def raw(self, op: int, data: bytes, slot: int = 0) -> int:
        """Perform a call with any bytes as arguments; returns word 0."""
        at = AREA + slot * SLOT_SIZE
        self.vm.memory.write(at, struct.pack("<II", op, 0) + data)
        self.register(Register.CALL, slot)
        return int.from_bytes(self.vm.memory.read(at, 4), "little")

    def call(self, op: Op, *arguments: int, array: bytes = b"") -> Result:
        return Result(self.raw(op, ARGUMENT_LAYOUTS[op].pack(*arguments) + array))

    def answer(self, op: Op, *arguments: int) -> tuple[int, ...]:
        assert self.call(op, *arguments) == Result.OK
        return RESULT_LAYOUTS[op].unpack(
            self.vm.memory.read(AREA + ARGUMENTS, RESULT_LAYOUTS[op].size)
        )

    def word(self, index: int) -> int:
        """A word of the shared page."""
        return int.from_bytes(self.vm.memory.read(SHARED + 4 * index, 4), "little")

    def set_word(self, index: int, value: int) -> None:
        self.vm.memory.write(SHARED + 4 * index, struct.pack("<I", value))

    def translate(self, directory: int, va: int) -> tuple[int, int, bool] | None:
        """Where the GPU goes for an address of the space with this directory (on the card): (aperture,
        address, read-only)."""
        memory: PhysicalMemory = self.device._gpu.device.memory
        try:
            entry = paging.walk(memory, Root(Target.VRAM, directory, LIMIT), va)
        except MmuFault:
            return None
        return (
            entry >> paging.TARGET_SHIFT,
            ((entry & paging.ADDRESS_MASK) << 8) + (va & 0xFFF),
            bool(entry & paging.READ_ONLY),
        )

    def owns(self, found: tuple[int, int, bool]) -> bool:
        """Whether what the GPU would reach is this VM's."""
        target, address, _ = found
        memory = self.device.memory
        if target == Target.VRAM:
            return bool(memory.base <= address < memory.base + memory.size)
        return bool(memory.window <= address < memory.window + self.vm.memory.size)

    def close(self) -> None:
        self.vm.close()


class Stage:
    """A card with an aggregator and callers."""

    def __init__(self) -> None:
        self.gpu = Gf100(vram=128 * MIB, watchdog_s=5.0)
        self.aggregator = Aggregator(self.gpu)
        self.callers: list[Caller] = []

    def caller(self, mode: str, name: str = "guest") -> Caller:
        self.callers.append(Caller(self.aggregator, mode, name))
        return self.callers[-1]

    def close(self) -> None:
        self.aggregator.close()
        for caller in self.callers:
            caller.close()
        self.gpu.close()
