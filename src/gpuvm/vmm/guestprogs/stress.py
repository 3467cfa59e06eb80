"""gpuvm-stress: more buffers than video memory, copied by both engines on several channels, mixed by kernels,
and all of their bytes compared with what must be there.

The kernel evicts what does not fit and brings it back; its fences and semaphores order what the channels do.
Every page of a buffer says whose it is, so a page that is lost, stale or another's is told apart.
"""

from __future__ import annotations

import argparse
import array
import itertools
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .drm import COMPUTE, COPY, DOMAIN_GART, DOMAIN_VRAM, M2MF, MAPPABLE, Buffer, Channel, Device
from .push import CODE, MIX_FACTOR, acquire, bind, copy, launch, release

MIB = 1 << 20
PAGE = 4096
STAMP = 16
"""Bytes at the start of each page that say whose it is."""

THREADS = 256
MIXED = 4096
"""Words at the start of a buffer that a kernel mixes."""


@dataclass
class Tally:
    """What was done."""

    copies: int = 0
    copied: int = 0
    checks: int = 0
    checked: int = 0
    corrupt: int = 0
    handshakes: int = 0
    chains: int = 0
    launches: int = 0
    peeks: int = 0
    renewed: int = 0
    complaints: list[str] = field(default_factory=list)


class NoRoom(Exception):
    """The machine has too little RAM for the buffers asked for."""


def available() -> int:
    """Bytes of RAM that programs may still take."""
    with open("/proc/meminfo") as file:
        fields = dict(line.split(":") for line in file)
    return int(fields["MemAvailable"].split()[0]) * 1024


class Slot:
    """A buffer in video memory and the contents that it must have."""

    def __init__(self, number: int, buffer: Buffer) -> None:
        self.number = number
        self.buffer = buffer
        self.expected = b""


class Stress:
    """The whole of it.

    Parameters
    ----------
    over : float
        Bytes of all buffers together, as a multiple of the video memory.
    size : int
        Bytes of a buffer.
    """

    def __init__(self, device: Device, seed: int, over: float, size: int, channels: int) -> None:
        self.device = device
        self.random = random.Random(seed)
        self.size = size
        self.tally = Tally()
        self._generation = 0
        self._noise = self.random.randbytes(2 * size)
        self._semaphore_value = 0
        self.channels = [self._channel() for _ in range(channels)]
        self.engines = self._engines()
        self.staging = [device.buffer(size, DOMAIN_GART | MAPPABLE) for _ in range(4)]
        self._staged = 0
        self.semaphore = device.buffer(PAGE, DOMAIN_GART | MAPPABLE)
        self.semaphore.map[:PAGE] = bytes(PAGE)
        self.code = device.buffer(PAGE, DOMAIN_GART | MAPPABLE)
        data = array.array("I", CODE["mix"]).tobytes()
        self.code.map[: len(data)] = data
        self.constants = [device.buffer(PAGE, DOMAIN_VRAM) for _ in self.channels]
        self.vram = device.parameter("vram")
        count = max(int(self.vram * over) // size, 4)
        # What must be there is kept beside the buffers, and what does not fit into video memory is evicted.
        need, there = 2 * count * size - min(self.vram, count * size), available()
        if need > there:
            raise NoRoom(
                f"{count} buffers of {size >> 10} KiB need {need // MIB} MiB of RAM, and {there // MIB} MiB are "
                "free: give the machine more (gpuvm vm run --memory) or take fewer (--over)"
            )
        self.slots = [Slot(number, device.buffer(size, DOMAIN_VRAM | MAPPABLE)) for number in range(count)]

    def _channel(self) -> Channel:
        channel = self.device.channel()
        for class_ in (M2MF, COMPUTE):
            channel.object(class_)
            channel.submit(bind(class_))
        return channel

    def _engines(self) -> dict[int, tuple[int, ...]]:
        """The copy classes that each channel has, by its place in the list."""
        found: dict[int, tuple[int, ...]] = {}
        for number, channel in enumerate(self.channels):
            try:
                channel.object(COPY)
                channel.submit(bind(COPY))
            except OSError:
                found[number] = (M2MF,)  # the card has its copy engines switched off
            else:
                found[number] = (M2MF, COPY)
        return found

    # What is done

    def run(self, seconds: float, tell: Callable[[str], None]) -> None:
        """Fill all buffers, work for so long, compare everything."""
        for slot in self.slots:
            self.refill(slot)
        works = (self.duplicate, self.chain, self.handshake, self.inspect, self.mix, self.renew, self.peek)
        weights = (8, 3, 2, 6, 2, 1, 1)
        told = time.monotonic()
        end = told + seconds
        for work in works:  # each once, however little time there is
            work()
        while time.monotonic() < end and not self.tally.corrupt:
            (work,) = self.random.choices(works, weights)
            work()
            now = time.monotonic()
            if told + 10 < now < end:
                told = now
                tell(f"{end - now:.0f} s left, {summary(self.tally)}")
        for slot in self.slots:
            self.check(slot)

    def pick(self) -> Slot:
        return self.random.choice(self.slots)

    def two(self) -> tuple[Slot, Slot]:
        first, second = self.random.sample(self.slots, 2)
        return first, second

    def refill(self, slot: Slot) -> None:
        """New contents, from memory of the machine."""
        self._generation += 1
        start = self.random.randrange(self.size)
        content = bytearray(self._noise[start : start + self.size])
        for at in range(0, self.size, PAGE):
            content[at : at + STAMP] = b"%08x%04x%04x" % (self._generation, slot.number, at // PAGE)
        stage = self._stage()
        stage.map[: self.size] = content
        self._copy(stage, slot.buffer)
        slot.expected = bytes(content)

    def duplicate(self) -> None:
        """One buffer's contents into another."""
        source, target = self.two()
        self._copy(source.buffer, target.buffer)
        target.expected = source.expected

    def chain(self) -> None:
        """Contents handed on by one channel after another: the kernel orders them by semaphores."""
        slots = self.random.sample(self.slots, min(len(self.channels) + 1, len(self.slots)))
        for number, (source, target) in enumerate(itertools.pairwise(slots)):
            self._copy(source.buffer, target.buffer, number % len(self.channels))
            target.expected = source.expected
        self.tally.chains += 1

    def handshake(self) -> None:
        """A channel waits for a semaphore that another one releases only after it was told to: it must give way."""
        if len(self.channels) < 2:
            return
        waiting, releasing = self.random.sample(self.channels, 2)
        self._semaphore_value += 1
        there, back = self.semaphore.address, self.semaphore.address + 16
        value = self._semaphore_value
        waiting.submit(acquire(there, value) + release(back, value), reads=[self.semaphore])
        releasing.submit(release(there, value), reads=[self.semaphore])
        waiting.wait()
        seen = int.from_bytes(self.semaphore.map[16:20], "little")
        if seen != value:
            self._complain(f"a semaphore must be {value} after its release, and is {seen}", 4)
        self.tally.handshakes += 1

    def inspect(self) -> None:
        """Compare one buffer."""
        self.check(self.pick())

    def mix(self) -> None:
        """A kernel rewrites the start of a buffer."""
        slot = self.pick()
        number = self.random.randrange(len(self.channels))
        count = min(MIXED, self.size // 4)
        address = slot.buffer.address
        words = launch(
            self.code.address,
            self.constants[number].address,
            -(-count // THREADS),
            THREADS,
            (address & 0xFFFFFFFF, address >> 32, count),
        )
        self.channels[number].submit(
            words, reads=[self.code, slot.buffer], writes=[slot.buffer, self.constants[number]]
        )
        mixed = array.array("I", slot.expected[: 4 * count])
        for at, value in enumerate(mixed):
            mixed[at] = value * MIX_FACTOR + at & 0xFFFFFFFF
        slot.expected = mixed.tobytes() + slot.expected[4 * count :]
        self.tally.launches += 1

    def renew(self) -> None:
        """Give a buffer back while the GPU may still use it, and take a new one."""
        slot = self.pick()
        slot.buffer.close()
        slot.buffer = self.device.buffer(self.size, DOMAIN_VRAM | MAPPABLE)
        self.refill(slot)
        self.tally.renewed += 1

    def peek(self) -> None:
        """Look at some words of a buffer from the CPU, wherever it is: through BAR1 if in video memory."""
        slot = self.pick()
        slot.buffer.wait(write=False)
        for _ in range(4):
            at = self.random.randrange(self.size // 4) * 4
            seen, must = slot.buffer.map[at : at + 4], slot.expected[at : at + 4]
            if seen != must:
                text = (
                    f"the CPU must see {must.hex()} at {at:#x} of buffer {slot.number}, and sees {seen.hex()}"
                )
                self._complain(text, 4)
        self.tally.peeks += 1

    def check(self, slot: Slot) -> None:
        """Bring a buffer's contents back and compare every byte."""
        stage = self._stage()
        self._copy(slot.buffer, stage)
        stage.wait(write=False)
        seen = stage.map[: self.size]
        self.tally.checks += 1
        self.tally.checked += self.size
        if seen != slot.expected:
            self._differ(slot, seen)

    # How

    def _stage(self) -> Buffer:
        """A staging buffer that nobody uses."""
        self._staged = (self._staged + 1) % len(self.staging)
        stage = self.staging[self._staged]
        stage.wait()
        return stage

    def _copy(self, source: Buffer, target: Buffer, number: int | None = None) -> None:
        number = self.random.randrange(len(self.channels)) if number is None else number
        class_ = self.random.choice(self.engines[number])
        words = copy(class_, source.address, target.address, self.size)
        self.channels[number].submit(words, reads=[source], writes=[target])
        self.tally.copies += 1
        self.tally.copied += self.size

    def _differ(self, slot: Slot, seen: bytes) -> None:
        must = slot.expected
        pages = [at for at in range(0, self.size, PAGE) if seen[at : at + PAGE] != must[at : at + PAGE]]
        first = next(at for at in range(pages[0], self.size) if seen[at] != must[at])
        wrong = sum(a != b for a, b in zip(seen, must, strict=True))
        text = (
            f"buffer {slot.number} differs in {wrong} bytes of {len(pages)} pages, first at {first:#x}: "
            f"{must[first : first + STAMP].hex()} must be there, and {seen[first : first + STAMP].hex()} is"
        )
        self._complain(text, wrong)

    def _complain(self, text: str, corrupt: int) -> None:
        self.tally.corrupt += corrupt
        self.tally.complaints.append(text)

    def close(self) -> None:
        for channel in self.channels:
            channel.close()


def summary(tally: Tally) -> str:
    """The work in a few words."""
    return (
        f"{tally.copies} copies ({tally.copied / MIB:.0f} MiB), {tally.launches} kernels, {tally.chains} chains, "
        f"{tally.handshakes} handshakes, {tally.peeks} looks by the CPU, {tally.renewed} buffers renewed, "
        f"{tally.checks} checks of {tally.checked / MIB:.0f} MiB: {tally.corrupt} corrupt bytes"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="gpuvm-stress", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--seconds", type=float, default=10, help="how long it works after its buffers are filled"
    )
    parser.add_argument(
        "--over", type=float, default=1.5, help="buffers together, as a multiple of video memory"
    )
    parser.add_argument("--buffer", type=int, default=1024, metavar="KIB", help="size of a buffer")
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    with Device() as device:
        try:
            stress = Stress(device, options.seed, options.over, options.buffer * 1024, options.channels)
        except NoRoom as error:
            print(f"gpuvm-stress: {error}", file=sys.stderr)
            return 2
        stress.run(options.seconds, lambda text: print(f"gpuvm-stress: {text}", file=sys.stderr, flush=True))
        stress.close()
    tally = stress.tally
    for text in tally.complaints[:10]:
        print(f"gpuvm-stress: {text}", file=sys.stderr)
    engines = "both engines" if all(len(have) > 1 for have in stress.engines.values()) else "M2MF"
    print(
        f"gpuvm-stress: {'FAILED' if tally.corrupt else 'ok'}, {time.monotonic() - began:.1f} s, "
        f"{len(stress.slots)} buffers of {options.buffer} KiB in {stress.vram / MIB:.0f} MiB, "
        f"{len(stress.channels)} channels, {engines}, {summary(tally)}"
    )
    return 1 if tally.corrupt else 0


if __name__ == "__main__":
    sys.exit(main())
