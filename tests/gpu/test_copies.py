"""The copying classes: linear, tiled, inline, swizzled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuvm.gpu.classes.tiling import Surface

LINEAR, TILED = 0x2000_0000, 0x2400_0000


@pytest.fixture
def copier(rig):
    """A channel with a linear and a tiled buffer of 64 KiB each."""
    channel = rig.channel()
    linear, tiled = rig.ram(0x10000), rig.take(0x10000)
    channel.tables.map(LINEAR, linear, 0x10000, 2)
    channel.tables.map(TILED, tiled, 0x10000)
    channel.linear, channel.tiled = linear, tiled
    return channel


@given(st.integers(0, 3), st.integers(0, 1), st.integers(1, 200), st.integers(1, 40), st.integers(1, 3))
def test_every_byte_of_a_surface_has_its_own_place(height, depth, width, lines, layers):
    surface = Surface(height << 4 | depth << 8, width, lines, layers)
    places = np.concatenate([surface.offsets(0, width, y, z) for z in range(layers) for y in range(lines)])
    assert len(np.unique(places)) == width * lines * layers
    assert places.max() < surface.size()


def test_the_gob_is_swizzled_as_on_fermi():
    surface = Surface(0, 64, 8, 1)
    at = [int(surface.offsets(x, 1, y, 0)[0]) for x, y in ((0, 0), (16, 0), (32, 0), (0, 1), (0, 2), (15, 7))]
    assert at == [0, 32, 256, 16, 64, 64 * 3 + 16 + 15]


def test_lines_with_pitches(rig, push, copier):
    data = bytes(range(256)) * 4
    rig.memory.write(copier.linear, data)
    copier.run(
        push()
        .method(2, 0, 0x9039)
        .method(2, 0x238, 0, TILED)
        .method(2, 0x30C, 0, LINEAR, 64, 100, 10, 5)
        .method(2, 0x300, 0x100110)
    )
    got = rig.gpu.vram.read(copier.tiled, 500)
    for line in range(5):
        assert got[100 * line : 100 * line + 10] == data[64 * line : 64 * line + 10]
        assert got[100 * line + 10 : 100 * line + 90] == bytes(80)


def test_inline_data_is_written_line_by_line(rig, push, copier):
    copier.run(
        push()
        .method(2, 0, 0x9039)
        .method(2, 0x238, 0, TILED)
        .method(2, 0x314, 0, 32, 6, 2)
        .method(2, 0x300, 0x100111)
        .same(2, 0x304, 0x44434241, 0x00004645, 0x54535251)
        .method(2, 0x304, 0x00005655)
    )
    assert rig.gpu.vram.read(copier.tiled, 6) == b"ABCDEF"
    assert rig.gpu.vram.read(copier.tiled + 32, 8) == b"QRSTUV\0\0"
    assert rig.gpu.counters.channels[0].bytes_inline == 12


def test_data_that_nobody_announced_is_an_error(rig, push, copier):
    copier.submit(push().method(2, 0, 0x9039).method(2, 0x304, 1))
    rig.until(lambda: rig.rd(0x400100) & 0x00100000, "DATA_ERROR")
    assert rig.rd(0x400110) == 3


def test_tiled_and_back(rig, push, copier):
    """32 x 24 pixels of 4 bytes from (5, 3) of a 100 x 50 surface with blocks of 16 lines."""
    width, height, mode = 400, 50, 0x10
    data = np.random.default_rng(5).integers(0, 256, (24, 128), np.uint8)
    rig.memory.write(copier.linear, data.tobytes())
    surface = (mode, width, height, 1, 0)
    copier.run(
        push()
        .method(2, 0, 0x9039)
        .method(2, 0x220, *surface)
        .method(2, 0x34C, 20, 3)
        .method(2, 0x238, 0, TILED)
        .method(2, 0x30C, 0, LINEAR, 128, 0, 128, 24)
        .method(2, 0x300, 0x100010)
        .method(2, 0x204, *surface)
        .method(2, 0x344, 20, 3)
        .method(2, 0x238, 0, LINEAR + 0x8000)
        .method(2, 0x30C, 0, TILED, 0, 128, 128, 24)
        .method(2, 0x300, 0x100100)
    )
    assert rig.memory.read(copier.linear + 0x8000, data.size) == data.tobytes()
    layout = Surface(mode, width, height, 1)
    raw = np.frombuffer(rig.gpu.vram.read(copier.tiled, layout.size()), np.uint8)
    for line in range(24):
        assert raw[layout.offsets(20, 128, 3 + line, 0)].tobytes() == data[line].tobytes()


def test_a_rectangle_outside_its_surface_is_refused(rig, push, copier):
    copier.submit(
        push()
        .method(2, 0, 0x9039)
        .method(2, 0x204, 0, 64, 8, 1, 0)
        .method(2, 0x344, 0, 8)
        .method(2, 0x238, 0, LINEAR)
        .method(2, 0x30C, 0, TILED, 0, 64, 64, 1)
        .method(2, 0x300, 0x100100)
    )
    rig.until(lambda: rig.rd(0x400100) & 0x00100000, "DATA_ERROR")


@pytest.mark.parametrize("engine", [4, 5])
def test_the_copy_engines_copy_and_write_their_query(rig, push, copier, engine):
    data = bytes(range(256)) * 16
    rig.memory.write(copier.linear, data)
    copier.run(
        push()
        .method(4, 0, engine << 16 | 0x90B5)
        .method(4, 0x30C, 0, LINEAR, 0, TILED, 1024, 1024, 1024, 4)
        .method(4, 0x338, 0, copier.fence_va + 0x80, 0x4321)
        .method(4, 0x300, 0x3110)
    )
    assert rig.gpu.vram.read(copier.tiled, len(data)) == data
    assert copier.fence_value(0x80) == 0x4321


def test_the_copy_engine_tiles(rig, push, copier):
    data = bytes(range(256))
    rig.memory.write(copier.linear, data)
    copier.run(
        push()
        .method(4, 0, 0x490B5)
        .method(4, 0x220, 0, 64, 8, 1, 0, 0, 0)
        .method(4, 0x30C, 0, LINEAR, 0, TILED, 64, 0, 64, 4)
        .method(4, 0x300, 0x010)
    )
    layout = Surface(0, 64, 8, 1)
    raw = np.frombuffer(rig.gpu.vram.read(copier.tiled, 512), np.uint8)
    for line in range(4):
        assert raw[layout.offsets(0, 64, line, 0)].tobytes() == data[64 * line : 64 * line + 64]


def test_the_copy_engine_fills_with_a_constant(rig, push, copier):
    """One 32-bit component, taken from constant 0: a memset."""
    copier.run(
        push()
        .method(4, 0, 0x490B5)
        .method(4, 0x30C, 0, LINEAR, 0, TILED, 64, 64, 16, 2)
        .method(4, 0x32C, 3 << 16 | 4, 0xDEADBEEF)
        .method(4, 0x300, 0x111)
    )
    assert rig.gpu.vram.read(copier.tiled, 128) == bytes.fromhex("efbeadde") * 32


def test_a_copy_that_faults_leaves_its_target_alone(rig, push, copier):
    copier.submit(
        push()
        .method(2, 0, 0x9039)
        .method(2, 0x238, 0, TILED)
        .method(2, 0x30C, 0, LINEAR + 0xF000, 0, 0, 0x2000, 1)
        .method(2, 0x300, 0x100110)
    )
    rig.until(lambda: rig.rd(0x2100) & 0x10000000, "the fault")
    assert rig.rd(0x2804) == LINEAR + 0x10000
    assert rig.gpu.vram.read(copier.tiled, 0x1000) == bytes(0x1000)
