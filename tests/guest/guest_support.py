"""A machine with a software GF100 and CUDA in it, and what the stories about it share."""

from __future__ import annotations

from typing import Any

from gpuvm.gpu.device import Gf100
from gpuvm.guest.cuda import Cuda
from gpuvm.hypervisor import Aggregator
from gpuvm.vmm.inprocess import VirtualMachine

RESERVE = 64 << 20
"""Bytes of video memory that a hypervisor has for itself."""


class Lab:
    """One machine, its GPU and its CUDA."""

    def __init__(
        self, memory: int = 128 << 20, vram: int = 128 << 20, mode: str = "native", **options: Any
    ) -> None:
        self.machine = VirtualMachine("guest-test", memory)
        self.aggregator: Aggregator | None = None
        if mode == "native":
            self.gpu = Gf100(vram=vram, **options)
            self.machine.plug(self.gpu)
        else:
            self.gpu = Gf100(vram=vram + RESERVE, **options)
            self.aggregator = Aggregator(self.gpu, reserve=RESERVE)
            self.machine.plug(self.aggregator.create("guest-test", mode, vram=vram, channels=32))
        self.cuda = Cuda(self.machine)

    def close(self) -> None:
        self.cuda.close()
        if self.aggregator is not None:
            self.aggregator.close()
        self.machine.close()
        self.gpu.close()


def ok(result: tuple[Any, ...]) -> Any:
    """Return what a call that must succeed gave."""
    assert result[0] == 0, result
    return None if len(result) == 1 else result[1] if len(result) == 2 else result[1:]
