"""A channel from its instance block to the fence behind its work."""

from __future__ import annotations

import numpy as np


def test_a_channel_releases_a_semaphore_for_a_doorbell(rig, push):
    channel = rig.channel(3)
    channel.submit(push().release(channel.fence_va, 0x1234))
    channel.wait_fence(0x1234)
    rig.until(lambda: channel.get == 1, "GP_GET")


def test_a_long_release_carries_the_time(rig, push):
    channel = rig.channel()
    channel.submit(push().release(channel.fence_va, 7, short=False))
    channel.wait_fence(7)
    assert channel.fence_value(4) == 0
    assert channel.fence_value(8) | channel.fence_value(12) << 32 > 0


def test_memory_to_memory_copies_from_system_memory_to_vram_and_back(rig, push):
    channel = rig.channel()
    size = 3 * 0x1000 + 0x123
    data = np.random.default_rng(1).integers(0, 256, size, np.uint8).tobytes()
    source, there, back = rig.ram(0x4000), rig.take(0x4000), rig.ram(0x4000)
    for va, at, target in ((0x2000_0000, source, 2), (0x2100_0000, there, 0), (0x2200_0000, back, 2)):
        channel.tables.map(va, at, 0x4000, target)
    rig.memory.write(source, data)

    def copy(words, source_va, target_va):
        return (
            words.method(2, 0x238, target_va >> 32, target_va)
            .method(2, 0x30C, source_va >> 32, source_va, 0, 0, size, 1)
            .method(2, 0x300, 0x100110)
        )

    words = push().method(2, 0, 0x9039)
    copy(words, 0x2000_0000, 0x2100_0000)
    copy(words, 0x2100_0000, 0x2200_0000)
    channel.run(words)
    assert rig.gpu.vram.read(there, size) == data
    assert rig.memory.read(back, size) == data
    work = rig.gpu.counters.channels[0]
    assert (work.bytes_host_to_device, work.bytes_device_to_host, work.copies) == (size, size, 2)


def test_a_launch_reaches_the_executor_with_what_the_class_was_told(rig, push):
    channel = rig.channel()
    code = rig.take(0x1000)
    channel.tables.map(0x3000_0000, code)
    words = (
        push()
        .method(1, 0, 0x90C0)
        .method(1, 0x1608, 0, 0x3000_0000)
        .method(1, 0x3B4, 0x100)
        .method(1, 0x2380, 0x100, 0, 0x3000_0800)
        .immediate(1, 0x1694, 0 << 8 | 1)
        .method(1, 0x238, 3 << 16 | 2, 1)
        .method(1, 0x3AC, 4 << 16 | 8, 2)
        .method(1, 0x2C0, 20)
        .method(1, 0x24C, 0x400)
        .method(1, 0x368, 0x1000)
    )
    channel.run(words)
    (launch,) = rig.executor.launches
    assert (launch.code_base, launch.entry) == (0x3000_0000, 0x100)
    assert (launch.grid, launch.block) == ((2, 3, 1), (8, 4, 2))
    assert (launch.registers, launch.shared_size) == (20, 0x400)
    assert launch.constants[0].address == 0x3000_0800
    assert launch.constants[0].size == 0x100
    assert launch.space.pages[0x3000_0000] == (rig.gpu.vram.fd, code, True)
    assert rig.gpu.counters.channels[0].warp_instructions == 10
