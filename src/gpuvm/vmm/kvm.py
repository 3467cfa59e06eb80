"""Whether KVM really works here: a virtual machine of one page that executes one HLT instruction.

A /dev/kvm that exists, and even one that opens, is no proof: in containers and nested guests
the first entry into the guest is what fails.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct

_GET_API_VERSION = 0xAE00
_CREATE_VM = 0xAE01
_GET_VCPU_MMAP_SIZE = 0xAE04
_CREATE_VCPU = 0xAE41
_SET_USER_MEMORY_REGION = 0x4020AE46
_RUN = 0xAE80
_SET_REGS = 0x4090AE82
_GET_SREGS = 0x8138AE83
_SET_SREGS = 0x4138AE84
_EXIT_HLT = 5
_EXIT_REASON_OFFSET = 8
_HLT = 0xF4


def probe(path: str = "/dev/kvm") -> str:
    """Run one guest instruction under KVM.

    Returns
    -------
    str
        "" if the guest ran, else what failed, as part of a sentence.
    """
    try:
        kvm = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"{path} does not open ({os.strerror(error.errno or 0)})"
    try:
        return _run_hlt(kvm)
    except OSError as error:
        return f"{path} opens but a guest does not start ({os.strerror(error.errno or 0)})"
    finally:
        os.close(kvm)


def _run_hlt(kvm: int) -> str:
    if fcntl.ioctl(kvm, _GET_API_VERSION) != 12:
        return "its API is not version 12"
    vm = fcntl.ioctl(kvm, _CREATE_VM, 0)
    try:
        with mmap.mmap(-1, mmap.PAGESIZE) as page:
            page[0] = _HLT
            address = ctypes.c_char.from_buffer(page)
            try:
                # struct kvm_userspace_memory_region: slot, flags, guest address, size, host address
                region = struct.pack("=IIQQQ", 0, 0, 0, mmap.PAGESIZE, ctypes.addressof(address))
                fcntl.ioctl(vm, _SET_USER_MEMORY_REGION, region)
                return _run_vcpu(kvm, vm)
            finally:
                del address
    finally:
        os.close(vm)


def _run_vcpu(kvm: int, vm: int) -> str:
    vcpu = fcntl.ioctl(vm, _CREATE_VCPU, 0)
    try:
        sregs = bytearray(fcntl.ioctl(vcpu, _GET_SREGS, bytes(312)))
        sregs[0:8] = bytes(8)  # CS base
        sregs[12:14] = bytes(2)  # CS selector
        fcntl.ioctl(vcpu, _SET_SREGS, bytes(sregs))
        # struct kvm_regs: 16 general registers, RIP, RFLAGS (bit 1 is always set)
        fcntl.ioctl(vcpu, _SET_REGS, struct.pack("=18Q", *([0] * 16), 0, 2))
        with mmap.mmap(vcpu, fcntl.ioctl(kvm, _GET_VCPU_MMAP_SIZE)) as run:
            fcntl.ioctl(vcpu, _RUN, 0)
            (reason,) = struct.unpack_from("=I", run, _EXIT_REASON_OFFSET)
        return "" if reason == _EXIT_HLT else f"a guest's first instruction ends with exit reason {reason}"
    finally:
        os.close(vcpu)
