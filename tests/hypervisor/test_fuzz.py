"""Accesses that make no sense: nothing is raised, the neighbour's memory and work stay as they were."""

from __future__ import annotations

import random
from typing import Any

import pytest

from gpuvm.hypervisor.policy import POLICY

MIB = 1 << 20
INTERESTING = [first for rule in POLICY for first, _ in rule.ranges()] + [
    0x88004,
    0x88068,
    0x1008,
    0x3008,
    0x300C,
]
ADDRESSES = [0, 0x10000, 0x60000, 0x62000, 0x80000, 16 * MIB - 4096, 16 * MIB, 32 * MIB, (1 << 40) - 4096]


def nonsense(chance: random.Random) -> tuple[int, int, int, int]:
    """One access: (bar, offset, size, value)."""
    bar = chance.choice((0, 0, 0, 0, 1, 3, 2, 5))
    size = chance.choice((4, 4, 4, 1, 2, 8))
    offset = chance.choice(
        (
            chance.choice(INTERESTING),
            chance.choice(INTERESTING) + chance.randrange(0x200),
            chance.randrange(1 << 25),
            0x3000 + chance.randrange(0x400),
            0x700000 + chance.randrange(0x100000),
            chance.randrange(0x20000),
            (1 << 24) - chance.randrange(8),
        )
    )
    address = chance.choice(ADDRESSES) + 0x1000 * chance.randrange(-4, 4)
    value = chance.choice(
        (
            chance.randrange(1 << 32),
            (address >> 12 & 0x0FFFFFFF) | chance.choice((0, 0x80000000, 0xC0000000, 0xA0000000)),
            (address >> 8 & 0xFFFFFFFF) | chance.randrange(16),
            (address >> 16) & 0xFFFFFFFF,
            chance.randrange(256),
            0xFFFFFFFF,
            0,
        )
    )
    return bar, offset, size, value


@pytest.mark.parametrize("seed", range(4))
def test_nonsense_reaches_nobody(machine: Any, seed: int) -> None:
    chance = random.Random(seed)
    machine.guest("first")
    neighbour, mad = machine.guest("neighbour").start(), machine.guest("mad").start()
    neighbour.poke(0x100000, b"still here......" * 256)
    memory = neighbour.device.memory
    before = memory.vram.read(memory.base + 0x100000, MIB)
    for turn in range(4000):
        bar, offset, size, value = nonsense(chance)
        if chance.random() < 0.7:
            mad.device.write(bar, offset, size, value)
        else:
            assert 0 <= mad.device.read(bar, offset, size) < 1 << 8 * size
        if turn % 500 == 0:
            mad.device.write_block(
                bar, offset, chance.randbytes(chance.randrange(1, 5000)), chance.choice((4, 8))
            )
            mad.device.read_block(bar, offset, chance.randrange(1, 5000), 4)
            mad.device.config_write(chance.randrange(300), 4, value)
            assert neighbour.copy(0x280000, 0x100000, 4096) == "done"
    assert memory.vram.read(memory.base + 0x100000, MIB) == before
    assert neighbour.peek(0x280000, 4096) == b"still here......" * 256
    mad.device.reset()
    mad.start()
    assert mad.copy(0x200000, 0x100000, 64) == "done", "a reset brings the mad guest back"


def test_pushbuffers_of_nonsense_stop_nobody_else(machine: Any) -> None:
    chance = random.Random(7)
    neighbour, mad = machine.guest("neighbour").start(), machine.guest("mad").start()
    neighbour.poke(0x100000, b"still here......" * 256)
    for turn in range(40):
        words = []
        for _ in range(chance.randrange(1, 12)):
            count = chance.randrange(5)
            method = chance.choice(
                (0, 0x10, 0x300, 0x304, 0x368, 0x238, 0x1B0C, chance.randrange(0, 0x4000, 4))
            )
            words.append(
                chance.choice((1, 3, 4, 5, 0, 2)) << 29
                | count << 16
                | chance.randrange(8) << 13
                | method >> 2
            )
            classes = (0x9039, 0x90C0, 0x90B5 | 4 << 16, 0x1F906E, 0x9097)
            words += [chance.choice((*classes, chance.randrange(1 << 32), 1)) for _ in range(count)]
        mad.wait(mad.submit(words), 0.05)
        for status, clear in (
            (0x400100, 0x400100),
            (0x40108, 0x40108),
            (0x259C, 0x259C),
            (0x104008, 0x104004),
        ):
            mad.write(clear, mad.read(status))
        if turn % 4 == 3:
            mad.bind()
        assert neighbour.copy(0x280000, 0x100000, 4096) == "done", turn
    mad.device.reset()
    mad.start()
    assert mad.copy(0x200000, 0x100000, 64) == "done"
