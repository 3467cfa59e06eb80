"""KVM only where a real guest boots under it: the guest image itself is tried, once for each boot of this machine.

A /dev/kvm may open, make a virtual machine and run an instruction, and still break down in a kernel's boot; in
containers and nested machines it does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

from gpuvm import directories
from gpuvm.vmm import kvm
from gpuvm.vmm.errors import QemuError
from gpuvm.vmm.image import Image
from gpuvm.vmm.qemu.locate import Qemu
from gpuvm.vmm.qemu.monitor import Monitor
from gpuvm.vmm.qemu.options import Guest, command_line

ACCELERATORS = ("auto", "kvm", "tcg")
_BOOT_S = 10.0
"""Seconds that a kernel may take to its init: with KVM it takes one or two, and a slower one is no gain."""

_LOOK_S = 0.1
_GREETING = b"gpuvm-guest-runs"
_MIB = 1 << 20


def choose(qemu: Qemu, image: Image, wanted: str = "auto") -> Qemu:
    """Have the QEMU with the accelerator that is wanted, or with the best one that works.

    Raises
    ------
    QemuError
        If KVM is wanted and does not work.
    """
    if wanted == "tcg":
        return replace(qemu, accelerator="tcg", why_not_kvm="as asked")
    failure = kvm.probe() or _remembered(qemu, image)
    if failure and wanted == "kvm":
        raise QemuError(f"KVM must work here, but {failure}")
    return replace(qemu, accelerator="tcg" if failure else "kvm", why_not_kvm=failure)


def _remembered(qemu: Qemu, image: Image) -> str:
    """What a guest's boot under KVM failed with, "" if it came up; tried once and kept."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    content = f"{boot} {qemu.version} {qemu.where} {image.manifest['kernel_sha256']}"
    path = directories.cache("vm", f"kvm-{hashlib.sha256(content.encode()).hexdigest()[:16]}.json")
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(json.loads(path.read_text())["failure"])
    failure = boot_failure(replace(qemu, accelerator="kvm"), image)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(json.dumps({"failure": failure}))
        partial.replace(path)
    return failure


def boot_failure(qemu: Qemu, image: Image) -> str:
    """Boot the image with nothing plugged in; "" if its init ran, else what happened, as part of a sentence."""
    guest = Guest("probe", image, memory=256 * _MIB, probe=True)
    monitor, there = socket.socketpair()
    with there:
        process = subprocess.Popen(
            command_line(qemu, guest, None, there.fileno(), None),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(there.fileno(),),
            env={**os.environ, **qemu.environment},
        )
    said = bytearray()
    assert process.stdout is not None
    output = process.stdout

    def read() -> None:
        while piece := os.read(output.fileno(), 4096):
            said.extend(piece)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    control = Monitor(monitor)
    try:
        end = time.monotonic() + _BOOT_S
        while time.monotonic() < end and process.poll() is None and _GREETING not in said:
            with contextlib.suppress(QemuError):
                state = control.execute("query-status")["status"]
                if state not in ("running", "prelaunch"):
                    return f"a guest's kernel does not boot under it ({state})"
            time.sleep(_LOOK_S)
    finally:
        process.kill()
        process.wait()
        reader.join()
        output.close()
        control.close()
    if _GREETING in said:
        return ""
    return f"a guest's kernel does not boot under it within {_BOOT_S:g} s"
