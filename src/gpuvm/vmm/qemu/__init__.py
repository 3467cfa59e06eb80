"""Real virtual machines: a QEMU that can do it, its command line, and a guest that is booted and spoken to."""

from gpuvm.vmm.qemu.find import Qemu, find
from gpuvm.vmm.qemu.machine import KernelMessage, Machine, Result

__all__ = ["KernelMessage", "Machine", "Qemu", "Result", "find"]
