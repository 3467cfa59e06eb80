"""gpuvm-fault and gpuvm-endless: channels that go wrong, to see that the driver and the neighbours survive it.

fault    a copy, a pushbuffer or a kernel reaches for an address that is not mapped: the driver must report the
         fault and kill the channel, and a new channel must work.
endless  a channel that never gets on: it waits for a semaphore that nobody releases, or runs a kernel that
         loops for ever, until the program ends and the driver takes the channel away.
"""

from __future__ import annotations

import argparse
import array
import errno
import os
import sys
import time

from .drm import COMPUTE, DOMAIN_GART, DOMAIN_VRAM, M2MF, MAPPABLE, Buffer, Channel, Device
from .push import CODE, acquire, bind, copy, launch

PAGE = 4096
NOWHERE = 0x12DEAD0000
"""A GPU virtual address that no buffer has."""

SETTLE_S = 5.0


def kernel_log() -> int:
    """Open the kernel's log at its end."""
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    os.lseek(fd, 0, os.SEEK_END)
    return fd


def news(fd: int) -> list[str]:
    """What the kernel's log got since."""
    lines = []
    while True:
        try:
            lines.append(os.read(fd, 8192).decode("utf-8", "replace").partition(";")[2].split("\n")[0])
        except BlockingIOError:
            return lines
        except BrokenPipeError:
            continue


def kernel(device: Device, channel: Channel, name: str, argument: int) -> None:
    """Launch one of the kernels with an address as its argument."""
    code = device.buffer(PAGE, DOMAIN_GART | MAPPABLE)
    data = array.array("I", CODE[name]).tobytes()
    code.map[: len(data)] = data
    constants = device.buffer(PAGE, DOMAIN_VRAM)
    channel.object(COMPUTE)
    arguments = (argument & 0xFFFFFFFF, argument >> 32, 32)
    words = bind(COMPUTE) + launch(code.address, constants.address, 1, 32, arguments)
    channel.submit(words, reads=[code], writes=[constants])


def works(device: Device) -> bool:
    """Whether a new channel copies right."""
    channel = device.channel()
    channel.object(M2MF)
    source = device.buffer(PAGE, DOMAIN_GART | MAPPABLE)
    middle = device.buffer(PAGE, DOMAIN_VRAM | MAPPABLE)
    target = device.buffer(PAGE, DOMAIN_GART | MAPPABLE)
    content = os.urandom(PAGE)
    source.map[:PAGE] = content
    target.map[:PAGE] = bytes(PAGE)
    channel.submit(bind(M2MF) + copy(M2MF, source.address, middle.address, PAGE), [source], [middle])
    channel.submit(copy(M2MF, middle.address, target.address, PAGE), [middle], [target])
    done = target.wait_for(30)
    right = done and target.map[:PAGE] == content
    channel.close()
    return right


def fault(options: argparse.Namespace) -> int:
    """Inject a fault, show what the kernel says, try a new channel."""
    log = kernel_log()
    with Device() as device:
        channel = device.channel()
        channel.object(M2MF)
        probe: Buffer = device.buffer(PAGE, DOMAIN_VRAM | MAPPABLE)
        try:
            if options.kind == "kernel":
                kernel(device, channel, "mix", NOWHERE)
            elif options.kind == "read":
                channel.submit(bind(M2MF) + copy(M2MF, NOWHERE, probe.address, PAGE), writes=[probe])
            else:
                channel.submit(bind(M2MF) + copy(M2MF, probe.address, NOWHERE, PAGE), reads=[probe])
        except OSError as error:
            if error.errno != errno.ENODEV:  # the channel may be gone before the kernel has fenced the work
                raise
        said: list[str] = []
        end = time.monotonic() + SETTLE_S
        while time.monotonic() < end and not any("killed" in line for line in said):
            time.sleep(0.05)
            said += news(log)
        for line in said:
            print(f"kernel: {line}")
        reported = any("fault" in line for line in said) and any("killed" in line for line in said)
        try:
            channel.submit(bind(M2MF))
            refused = False
        except OSError:
            refused = True
    with Device() as device:
        healthy = works(device)
    print(
        f"gpuvm-fault: {'ok' if reported and refused and healthy else 'FAILED'}, {options.kind}: the fault was "
        f"{'reported' if reported else 'not reported'}, the channel {'refuses' if refused else 'takes'} more work, "
        f"a new channel {'works' if healthy else 'does not work'}"
    )
    return 0 if reported and refused and healthy else 1


def endless(options: argparse.Namespace) -> int:
    """Hang a channel for a while; another one must work beside it if it only waits."""
    with Device() as device:
        channel = device.channel()
        if options.kind == "kernel":
            kernel(device, channel, "endless", 0)
        else:
            semaphore = device.buffer(PAGE, DOMAIN_GART | MAPPABLE)
            semaphore.map[:PAGE] = bytes(PAGE)
            channel.submit(acquire(semaphore.address, 1), reads=[semaphore])
        print(f"gpuvm-endless: a channel hangs ({options.kind})", flush=True)
        time.sleep(options.seconds)
        hangs = channel.ring.busy
        beside = options.kind == "kernel" or works(device)
    # The driver waits for the channel as the device is closed, gives up and takes it away.
    good = hangs and beside
    print(
        f"gpuvm-endless: {'ok' if good else 'FAILED'}, {options.kind}: the channel "
        f"{'hung' if hangs else 'went on'} for {options.seconds:g} s"
        + (
            ""
            if options.kind == "kernel"
            else f", another one {'works' if beside else 'does not work'} beside it"
        )
    )
    return 0 if good else 1


def main() -> int:
    name = os.path.basename(os.environ.get("GPUVM_PROGRAM", "gpuvm-fault"))
    parser = argparse.ArgumentParser(prog=name, description=(__doc__ or "").split("\n\n")[0])
    if name == "gpuvm-endless":
        parser.add_argument("kind", choices=("semaphore", "kernel"), nargs="?", default="semaphore")
        parser.add_argument(
            "--seconds", type=float, default=5, help="how long it hangs before the program ends"
        )
        return endless(parser.parse_args())
    parser.add_argument("kind", choices=("write", "read", "kernel"), nargs="?", default="write")
    return fault(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
