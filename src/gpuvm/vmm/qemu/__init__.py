"""Real virtual machines: a QEMU that can do it, its command line, and a guest that is booted and spoken to."""

from gpuvm.vmm.qemu.acceleration import choose
from gpuvm.vmm.qemu.kernellog import KernelMessage
from gpuvm.vmm.qemu.locate import Qemu, find, prepare
from gpuvm.vmm.qemu.machine import Machine, Result

__all__ = ["KernelMessage", "Machine", "Qemu", "Result", "choose", "find", "prepare"]
