"""QEMU's command line for a guest, from what the guest shall be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuvm.vmm.guestprogs.frames import PORT
from gpuvm.vmm.image import Image
from gpuvm.vmm.qemu.locate import DEVICE, Qemu

MIB = 1 << 20
MEMORY = 1024 * MIB
"""Bytes of RAM of a guest. Only what it touches costs."""

TRANSLATED_MIB = 128
"""MiB of translated code that TCG keeps."""

KERNEL_OPTIONS = (
    "console=ttyS0",
    "loglevel=3",  # the agent brings the log; the serial line is for a panic
    "panic=-1",  # a guest that dies ends, or reboots, at once
    "mitigations=off",
    "audit=0",
    "random.trust_cpu=on",
    "cryptomgr.notests",
    "no_timer_check",
    "log_buf_len=4M",
)

EMULATED_OPTIONS = ("clocksource=hpet", "tsc=unstable")
"""On TCG a guest that is kept waiting while it measures its processor's clock would run fast or slow from then on."""


@dataclass(frozen=True, slots=True)
class Guest:
    """What a guest shall be.

    Attributes
    ----------
    memory : int
        Bytes of RAM.
    cpus : int
    sockets : tuple of Path
        vfio-user sockets of the devices that are plugged into it.
    kernel_options : tuple of str
        More words for the kernel's command line.
    console : bool
        Its serial line is this terminal, for a person.
    reboots : bool
        A reboot starts it anew; otherwise it ends it.
    probe : bool
        It only boots, says so on its serial line and ends: has no agent and no devices.
    """

    name: str
    image: Image
    memory: int = MEMORY
    cpus: int = 1
    sockets: tuple[Path, ...] = ()
    kernel_options: tuple[str, ...] = ()
    console: bool = False
    reboots: bool = False
    probe: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """What the image's init looks for in the kernel's command line."""
        return tuple(f"gpuvm.{word}" for word in ("console", "probe") if getattr(self, word))


def command_line(
    qemu: Qemu, guest: Guest, agent: int | None, monitor: int | None, serial: Path | None
) -> list[str]:
    """The whole command.

    Parameters
    ----------
    agent, monitor : int, optional
        Descriptors of connected sockets, inherited by QEMU: the agent's port, the QMP monitor.
    serial : Path, optional
        File that gets what the kernel prints on its serial line.
    """
    size = f"{guest.memory // MIB}M"
    clock = () if qemu.accelerator == "kvm" else EMULATED_OPTIONS
    options = (*KERNEL_OPTIONS, *clock, *guest.kernel_options, *guest.words)
    command = [*qemu.command, "-name", guest.name.replace(",", " "), "-nodefaults", "-no-user-config"]
    command += ["-display", "none", "-vga", "none", "-net", "none"]
    command += ["-machine", "q35,memory-backend=ram,usb=off,sata=off,smbus=off,i8042=off,vmport=off"]
    # The device reaches the guest's RAM through this file: shared, so that its descriptor can be handed over.
    command += ["-object", f"memory-backend-memfd,id=ram,size={size},share=on", "-m", size]
    command += ["-smp", str(guest.cpus), *_accelerator(qemu)]
    command += ["-kernel", str(guest.image.kernel), "-initrd", str(guest.image.initrd)]
    command += ["-append", " ".join(options)]
    command += [] if guest.reboots else ["-no-reboot"]
    if guest.console or guest.probe:
        command += ["-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial"]
    else:
        command += ["-serial", "none" if serial is None else f"file:{_escaped(serial)}"]
    if monitor is not None:
        command += ["-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control"]
    if guest.probe:
        return command
    if agent is not None:
        command += ["-device", "virtio-serial-pci,max_ports=2", "-chardev", f"socket,id=agent,fd={agent}"]
        command += ["-device", f"virtserialport,chardev=agent,name={PORT}"]
    for number, path in enumerate(guest.sockets):
        command += ["-device", _device(number, path)]
    return command


def _accelerator(qemu: Qemu) -> Sequence[str]:
    if qemu.accelerator == "kvm":
        return "-accel", "kvm", "-cpu", "host"
    return "-accel", f"tcg,thread=multi,tb-size={TRANSLATED_MIB}", "-cpu", "qemu64"


def _device(number: int, path: Path) -> str:
    return json.dumps({"driver": DEVICE, "id": f"gpu{number}", "socket": {"type": "unix", "path": str(path)}})


def _escaped(path: Path) -> str:
    """A path inside an option, where a comma separates."""
    return str(path).replace(",", ",,")
