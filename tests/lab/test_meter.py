"""The meter changes nothing of what passes and counts all of it."""

from collections.abc import Sequence

from gpuvm.lab.meter import Meter
from gpuvm.pci.device import Bar, InterruptSink
from gpuvm.pci.memory import BusMemory


class Echo:
    """A device whose BAR0 is plain memory and that remembers what it was told."""

    def __init__(self) -> None:
        self.memory = bytearray(4096)
        self.log: list[str] = []

    @property
    def bars(self) -> Sequence[Bar]:
        return (Bar(0, 4096), Bar(1, 4096))

    def connect(self, memory: BusMemory, interrupts: InterruptSink) -> None:
        self.pin = interrupts

    def config_read(self, offset: int, size: int) -> int:
        return 0x10DE

    def config_write(self, offset: int, size: int, value: int) -> None:
        self.log.append(f"config {offset:#x}={value:#x}")

    def read(self, bar: int, offset: int, size: int) -> int:
        return int.from_bytes(self.memory[offset : offset + size], "little")

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        self.memory[offset : offset + size] = value.to_bytes(size, "little")

    def read_block(self, bar: int, offset: int, length: int, width: int = 4) -> bytes:
        return bytes(self.memory[offset : offset + length])

    def write_block(self, bar: int, offset: int, data: bytes, width: int = 4) -> None:
        self.memory[offset : offset + len(data)] = data

    def reset(self) -> None:
        self.log.append("reset")

    def close(self) -> None:
        self.log.append("close")


def test_accesses_pass_and_are_counted_by_bar_and_direction() -> None:
    meter = Meter(Echo())
    meter.write(0, 8, 4, 0xCAFE)
    meter.write_block(0, 16, bytes(range(10)), width=4)  # three accesses of a CPU that copies words
    assert meter.read(0, 8, 4) == 0xCAFE
    assert meter.read_block(1, 16, 8, width=8) == bytes(range(8))
    assert meter.counters() == {
        "interrupts": 0,
        "direct_bar0_read": 1,
        "direct_bar0_write": 4,
        "direct_bar0_bytes_read": 4,
        "direct_bar0_bytes_written": 14,
        "direct_bar1_read": 1,
        "direct_bar1_write": 0,
        "direct_bar1_bytes_read": 8,
        "direct_bar1_bytes_written": 0,
    }


def test_the_rest_of_a_function_passes_through() -> None:
    echo = Echo()
    meter = Meter(echo)
    assert meter.config_read(0, 2) == 0x10DE
    meter.config_write(4, 2, 6)
    meter.reset()
    meter.close()
    assert echo.log == ["config 0x4=0x6", "reset", "close"]
    assert meter.bars == echo.bars


class Line:
    """A machine's pin that remembers."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def message(self, vector: int) -> None:
        self.heard.append(vector)

    def level(self, asserted: bool) -> None:
        self.heard.append(asserted)


def test_interrupts_arrive_and_are_counted_once_an_edge() -> None:
    echo, line = Echo(), Line()
    meter = Meter(echo)
    meter.connect(BusMemory(), line)
    echo.pin.message(0)
    for asserted in (True, True, False, True):
        echo.pin.level(asserted)
    assert line.heard == [0, True, True, False, True]
    assert meter.counters()["interrupts"] == 3
