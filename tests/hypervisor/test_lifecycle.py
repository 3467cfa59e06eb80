"""Virtual GPUs come, work side by side, fail one at a time, and go without a trace."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from gpuvm.gpu import Gf100
from gpuvm.hypervisor import (
    Aggregator,
    ExclusiveError,
    HypervisorError,
    OutOfResourcesError,
    UnknownModeError,
)
from gpuvm.jit.launch import ErrorKind, ExecutionError, Launch, Outcome, Statistics
from gpuvm.vmm.inprocess import VirtualMachine

MIB = 1 << 20
INSTANCE, DATA = 0x60000, 0x100000
WINDOW = 5 * MIB
COMPUTE = 0x90C0
Make = Callable[..., Any]


def methods(subchannel: int, method: int, *data: int) -> list[int]:
    return [1 << 29 | len(data) << 16 | subchannel << 13 | method >> 2, *data]


LAUNCH = [
    *methods(1, 0, COMPUTE),
    *methods(1, 0x238, 1 << 16 | 1, 1),
    *methods(1, 0x3AC, 1 << 16 | 1, 1),
    *methods(1, 0x2C0, 8),
    *methods(1, 0x368, 0x1000),
]


def enable_messages(device: Any) -> None:
    """What a driver does in config space: memory, bus mastering, MSI."""
    device.config_write(4, 2, 6)
    device.config_write(0x6A, 2, device.config_read(0x6A, 2) | 1)


def listen(guest: Any) -> threading.Semaphore:
    """Count the guest's interrupts."""
    arrived = threading.Semaphore(0)
    guest.vm.on_interrupt(guest.device, lambda: arrived.release())
    enable_messages(guest.device)
    guest.write(0x140, 1)
    return arrived


def settle(holds: Callable[[], bool]) -> None:
    """Wait for what the dispatcher does a moment after a guest has seen its fence."""
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.002)
    assert holds()


class Kernels:
    """Stands in for the executor: a launch runs until `ready`, or is asked to stop."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.started = threading.Event()
        self.launches = 0

    def prepare(self, launch: Launch) -> None:
        """There is nothing to translate."""

    def run(self, launch: Launch, stop: Any) -> Outcome:
        self.launches += 1
        self.started.set()
        while not self.ready.is_set() and not stop.requested:
            time.sleep(0.001)
        outcome = Outcome(statistics=Statistics())
        if stop.requested:
            outcome.error = ExecutionError(ErrorKind.STOPPED)
        return outcome


def test_two_guests_work_side_by_side(machine: Any) -> None:
    guests = [machine.guest(name).start() for name in ("a", "b", "c")]
    failures: list[str] = []

    def work(guest: Any, number: int) -> None:
        for turn in range(20):
            pattern = bytes([number * 50 + turn]) * 4096
            guest.poke(DATA, pattern)
            if guest.copy(0x200000, DATA, 4096) != "done" or guest.peek(0x200000, 4096) != pattern:
                failures.append(f"guest {number}, turn {turn}")

    threads = [threading.Thread(target=work, args=(guest, n)) for n, guest in enumerate(guests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for guest in guests:
        counters = guest.device.counters
        assert counters.doorbells == 20
        settle(lambda counters=counters: counters.commands_completed == 20)
        assert counters.gpu_ns > 0


def test_dma_reaches_the_guests_own_ram(machine: Any) -> None:
    machine.guest("first")
    guest = machine.guest("guest").start()
    guest.vm.memory.write(0x7000, b"from the host...")
    guest.map_ram(WINDOW, 0x7000)
    guest.map_ram(WINDOW + 0x1000, 0x9000)
    guest.flush()
    assert guest.copy(DATA, WINDOW, 16) == "done"
    assert guest.copy(WINDOW + 0x1000, DATA, 16) == "done"
    assert guest.vm.memory.read(0x9000, 16) == b"from the host..."
    assert guest.device.counters.hypercalls >= 2


def test_a_fault_stops_one_channel_and_is_told_to_its_vm_only(machine: Any) -> None:
    quiet, loud = machine.guest("quiet").start(), machine.guest("loud").start(channel=3)
    heard, unheard = listen(loud), listen(quiet)
    assert loud.copy(DATA, WINDOW + 0x123000, 64) == "fault"
    assert heard.acquire(timeout=5)
    assert loud.read(0x100) & 0x100
    unit, instance, address = loud.take_fault()
    assert (instance, address & ~0xFFF) == (INSTANCE, WINDOW + 0x123000)
    assert loud.read(0x100) & 0x100 == 0
    assert quiet.copy(0x200000, DATA, 64) == "done"
    assert not unheard.acquire(timeout=0.05) or quiet.read(0x2800 + 0x10 * unit) == 0
    assert quiet.device.counters.faults == 0
    loud.bind()
    assert loud.copy(0x200000, DATA, 64) == "done"


def test_a_refused_method_holds_the_channel_until_the_driver_has_seen_it(machine: Any) -> None:
    machine.guest("first")
    guest = machine.guest("guest").start(channel=2)
    sequence = guest.submit([*methods(2, 0, 0x9039), *methods(2, 0x1FF0, 0xBAD)])
    assert guest.wait(sequence) == "graph"
    assert guest.read(0x400704) & 0x3FFC == 0x1FF0
    assert guest.read(0x400708) == 0xBAD
    assert guest.read(0x409B00) & 0x0FFFFFFF == INSTANCE >> 12
    time.sleep(0.05)
    assert guest.peek32(0xA2000) < sequence, "the channel waits"
    guest.write(0x400100, guest.read(0x400100))
    guest.write(0x400500, 0x00010001)
    assert guest.wait(sequence) == "done"


def test_a_software_method_names_the_guests_own_channel_number(machine: Any) -> None:
    machine.guest("first")
    guest = machine.guest("guest").start(channel=5)
    sequence = guest.submit(methods(7, 0, 0x1F906E))
    assert guest.wait(sequence) == "pbdma"
    assert guest.read(0x25A0) == 1
    assert guest.read(0x40120) & 0x7F == 5
    assert guest.read(0x400C4) == 0x1F906E
    guest.write(0x40108, guest.read(0x40108))
    assert guest.read(0x2100) & 1 << 29 == 0
    assert guest.wait(sequence) == "done"


def test_completion_interrupts_go_to_the_vm_that_worked(machine: Any) -> None:
    idle, busy = machine.guest("idle").start(), machine.guest("busy").start()
    unheard, heard = listen(idle), listen(busy)
    guest_words = methods(0, 0x20, 0)
    assert busy.run(guest_words) == "done"
    assert heard.acquire(timeout=5)
    assert busy.read(0x2100) & 1 << 31
    assert busy.read(0x25A4) & 1
    busy.write(0x25A8, 1)
    assert busy.read(0x2100) & 1 << 31 == 0
    assert not unheard.acquire(timeout=0.1)


def test_a_kernel_that_never_ends_is_stopped_and_the_neighbour_goes_on(make_machine: Make) -> None:
    kernels = Kernels()
    machine = make_machine(executor=kernels, watchdog_s=0.3)
    machine.guest("first")
    endless, patient = (machine.guest(name).start() for name in ("endless", "patient"))
    endless.submit(LAUNCH)
    assert kernels.started.wait(5)
    assert patient.copy(0x200000, DATA, 64) == "done"
    deadline = time.monotonic() + 5
    while not endless.read(0x2100) & 1 << 8 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert endless.read(0x2100) & 1 << 8, "the scheduler's error is shown"
    assert endless.read(0x254C) == 0x0A
    assert endless.read(0x2640) & 0x7F == 1
    assert patient.read(0x2100) & 1 << 8 == 0
    endless.write(0x2100, 1 << 8)
    endless.bind()
    assert endless.copy(0x200000, DATA, 64) == "done"


@pytest.mark.parametrize("how", ["destroy", "reset"])
def test_a_guest_goes_in_the_middle_of_a_kernel(make_machine: Make, how: str) -> None:
    kernels = Kernels()
    machine = make_machine(executor=kernels, watchdog_s=60.0)
    leaving, staying = (machine.guest(name).start() for name in ("leaving", "staying"))
    leaving.poke(DATA, b"kept")
    leaving.submit(LAUNCH)
    assert kernels.started.wait(5)
    waiting = staying.submit([])
    if how == "destroy":
        machine.aggregator.destroy(leaving.device)
        assert [vgpu.name for vgpu in machine.aggregator.virtual_gpus()] == ["staying"]
        assert machine.aggregator.vram.used == 16 * MIB
    else:
        leaving.device.reset()
        assert leaving.read(0x3008) == leaving.read(0x1704) == leaving.read(0x640) == 0
        assert leaving.peek(DATA, 4) == b"kept"
    assert staying.wait(waiting) == "done"
    if how == "reset":
        leaving.start()
        assert leaving.copy(0x200000, DATA, 64) == "done"
        assert leaving.peek(0x200000, 4) == b"kept"


def test_commands_of_all_guests_run_one_at_a_time_in_order_of_arrival(make_machine: Make) -> None:
    kernels = Kernels()
    machine = make_machine(executor=kernels, watchdog_s=60.0)
    a, b = (machine.guest(name).start() for name in ("a", "b"))
    first = a.submit(LAUNCH)
    assert kernels.started.wait(5)
    second = b.submit(LAUNCH)
    time.sleep(0.1)
    assert kernels.launches == 1
    assert machine.aggregator.dispatcher.scheduler.queued == 1
    assert b.device.read(1, 0x108C, 4) == 1, "the guest reads back its doorbell although it waits"
    kernels.ready.set()
    assert a.wait(first) == b.wait(second) == "done"
    assert kernels.launches == 2
    settle(lambda: b.device.counters.commands_completed == 1)
    assert a.device.counters.gpu_ns > 50_000_000
    assert a.device.counters.gpu_ns > b.device.counters.gpu_ns


def test_direct_scheduling_lets_commands_through_at_once(make_machine: Make) -> None:
    machine = make_machine(scheduler="direct")
    a, b = (machine.guest(name).start() for name in ("a", "b"))
    numbers = [(guest, guest.submit([])) for guest in (a, b, a, b)]
    assert [guest.wait(number) for guest, number in numbers] == ["done"] * 4


def test_a_channel_in_many_doorbells_does_not_grow_the_queue_without_bound(make_machine: Make) -> None:
    kernels = Kernels()
    machine = make_machine(executor=kernels, watchdog_s=60.0)
    flooding, other = (machine.guest(name).start() for name in ("flooding", "other"))
    last = flooding.submit(LAUNCH)
    assert kernels.started.wait(5)
    for _ in range(2000):
        flooding.device.write(1, 0x108C, 4, 1)
    waiting = other.submit([])
    assert machine.aggregator.dispatcher.scheduler.queued <= 66
    kernels.ready.set()
    assert flooding.wait(last) == other.wait(waiting) == "done"


def test_resources_are_given_until_none_is_left_and_come_back(machine: Any) -> None:
    aggregator = machine.aggregator
    free = (aggregator.vram.free, aggregator.channels.free, aggregator.own_memory.free)
    made = [aggregator.create(f"vm{n}", vram=8 * MIB, channels=16) for n in range(8)]
    with pytest.raises(OutOfResourcesError, match=r"1 channels must be free in one piece, .* has 0"):
        aggregator.create("one too many", vram=8 * MIB, channels=1)
    aggregator.destroy(made.pop(3))
    with pytest.raises(OutOfResourcesError, match=r"bytes of video memory must be free in one piece"):
        aggregator.create("too large", vram=100 * MIB)
    made.append(aggregator.create("again", vram=8 * MIB, channels=16))
    for vgpu in made:
        aggregator.destroy(vgpu)
    assert (aggregator.vram.free, aggregator.channels.free, aggregator.own_memory.free) == free
    assert aggregator.bar3.arenas.used == aggregator.bar1.arenas.used == aggregator.windows.used == 0


def test_wrong_requests_are_refused_in_one_sentence(machine: Any) -> None:
    aggregator = machine.aggregator
    with pytest.raises(UnknownModeError, match=r"must be one of passthrough, fv-naive.*got 'fv-magic'"):
        aggregator.create("x", "fv-magic")
    with pytest.raises(UnknownModeError, match="plug the GPU itself into the VM"):
        aggregator.create("x", "native")
    with pytest.raises(HypervisorError, match="got 0 bytes and 8 channels"):
        aggregator.create("x", vram=0)
    with pytest.raises(HypervisorError, match="weight must be at least 1, got 0"):
        aggregator.create("x", vram=MIB, weight=0)
    assert aggregator.vram.used == aggregator.channels.used == 0
    with Gf100(vram=128 * MIB) as gpu, pytest.raises(HypervisorError, match="must be one of direct, fifo"):
        Aggregator(gpu, "lottery")
    with Gf100(vram=16 * MIB) as small, pytest.raises(HypervisorError, match="video memory must be larger"):
        Aggregator(small)
    vgpu = aggregator.create("x", vram=8 * MIB)
    aggregator.destroy(vgpu)
    with pytest.raises(HypervisorError, match="not destroyed yet"):
        aggregator.destroy(vgpu)


def test_pass_through_is_the_gpu_itself_for_one_vm_alone(machine: Any) -> None:
    aggregator = machine.aggregator
    shared = machine.guest("shared")
    with pytest.raises(ExclusiveError, match=r"destroy the other virtual GPUs first \(shared\)"):
        aggregator.create("alone", "passthrough")
    aggregator.destroy(shared.device)
    alone = machine.guest("alone", mode="passthrough")
    with pytest.raises(ExclusiveError, match="alone"):
        aggregator.create("late")
    assert alone.device.config_read(0, 4) == machine.gpu.config_read(0, 4)
    assert alone.read(0x11020C) * (alone.read(0x22438) & 0x1F) == 128, "all of video memory"
    alone.vm.memory.write(0x7000, b"bus address is RAM address")
    alone.start(channel=9)
    arrived = listen(alone)
    alone.map_ram(WINDOW, 0x7000)
    alone.flush()
    assert alone.copy(DATA, WINDOW, 26) == "done"
    assert alone.peek(DATA, 26) == b"bus address is RAM address"
    assert alone.run(methods(0, 0x20, 0)) == "done"
    assert arrived.acquire(timeout=5)
    counters = alone.device.counters
    assert counters.traps == counters.hypercalls == counters.shadow_passes == 0
    assert counters.direct_accesses > 1000
    aggregator.destroy(alone.device)
    assert alone.device.read(0, 0, 4) == 0
    assert not machine.gpu.vram.bytes[DATA : DATA + 64].any()
    after = machine.guest("after").start()
    assert after.copy(0x200000, DATA, 64) == "done"


def test_native_is_a_vm_without_a_hypervisor(make_machine: Make) -> None:
    from gpuvm.guest.driver.device import Driver

    with Gf100(vram=64 * MIB) as gpu, VirtualMachine("native") as vm:
        vm.plug(gpu)
        driver = Driver(vm)
        context = driver.open_context()
        context.channel.drain()
        assert driver.vram.total == 64 * MIB - (256 << 10) - MIB
        assert gpu.pfifo.playlist == [context.channel.number], "its channel number is the chip's"
        driver.close()


def test_the_real_driver_comes_up_on_a_virtual_gpu_and_leaves_nothing(machine: Any) -> None:
    from gpuvm.guest.driver.device import Driver

    vgpu = machine.aggregator.create("vm", vram=64 * MIB)
    with VirtualMachine("vm") as vm:
        vm.plug(vgpu)
        for _ in range(2):
            driver = Driver(vm)
            assert driver.vram.total == 64 * MIB - (256 << 10) - MIB, "it sizes itself to its share"
            contexts = [driver.open_context() for _ in range(3)]
            for context in contexts:
                context.channel.drain()
            driver.close()
        assert vgpu.counters.denied == 0, "the policy lists whatever a driver needs"
        assert vgpu.counters.denied_addresses == 0
        assert not vgpu.spaces.all()
        assert all(channel.instance is None for channel in vgpu.channels)


def test_two_drivers_come_up_at_once(machine: Any) -> None:
    from gpuvm.guest.driver.device import Driver

    machines = [VirtualMachine(name) for name in ("a", "b")]
    errors: list[BaseException] = []

    def boot(vm: VirtualMachine) -> None:
        try:
            for _ in range(3):
                driver = Driver(vm)
                driver.open_context().channel.drain()
                driver.close()
        except BaseException as error:
            errors.append(error)

    for vm in machines:
        vm.plug(machine.aggregator.create(vm.name, vram=32 * MIB))
    threads = [threading.Thread(target=boot, args=(vm,)) for vm in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for vm in machines:
        vm.close()
    assert errors == []


IDLE = r"""
import re
from gpuvm.gpu import Gf100
from gpuvm.hypervisor import Aggregator
from gpuvm.vmm.inprocess import VirtualMachine
gpu = Gf100(vram=6 << 30)
aggregator = Aggregator(gpu)
machines = [VirtualMachine(f"vm{n}") for n in range(8)]
for vm in machines:
    vm.plug(aggregator.create(vm.name, vram=512 << 20, channels=16))
# Not ru_maxrss: that begins with the peak of the process that forked this one.
print(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])
aggregator.close()
for vm in machines:
    vm.close()
gpu.close()
"""


def test_an_idle_6_gib_gpu_with_eight_virtual_gpus_is_small() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IDLE], capture_output=True, text=True, check=True, timeout=120
    )
    assert int(done.stdout) * 1024 < 300_000_000


def test_counters_are_read_as_differences(machine: Any) -> None:
    guest = machine.guest("guest").start()
    before = guest.device.counters.snapshot()
    guest.poke(DATA, bytes(4096))
    guest.flush()
    since = guest.device.counters.since(before)
    assert (since.traps_bar0_write, since.bytes_bar0_write) == (1 + 1024 + 2, 4 + 4096 + 8)
    assert (since.tlb_flushes, since.shadow_passes, since.entries_visited) == (1, 1, 8192 + 32768)
    assert since.traps == since.traps_bar0_write
    assert since.as_dict()["entries_changed"] == 0


def test_machines_that_are_gone_hold_nothing_of_the_host(machine: Any) -> None:
    from gpuvm.guest.driver.device import Driver

    def visit() -> int:
        vgpu = machine.aggregator.create("visitor", vram=16 * MIB)
        with VirtualMachine("visitor", 16 * MIB) as vm:
            vm.plug(vgpu)
            driver = Driver(vm)
            driver.open_context().channel.drain()
            driver.close()
            machine.aggregator.destroy(vgpu)
        return len(os.listdir("/proc/self/fd"))

    first = visit()
    assert max(visit() for _ in range(4)) <= first


def test_a_new_channel_does_not_run_what_the_last_one_submitted(make_machine: Make) -> None:
    """GP_PUT of the channel before, cleared while the dispatcher was busy, was cleared too late."""
    kernels = Kernels()
    machine = make_machine(executor=kernels, watchdog_s=60.0)
    busy, guest = (machine.guest(name).start() for name in ("busy", "guest"))
    for _ in range(3):
        assert guest.copy(0x200000, DATA, 64) == "done"
    occupied = busy.submit(LAUNCH)
    assert kernels.started.wait(5)
    guest.write(0x3008, 0)
    guest.device.write_block(1, 0x1000, bytes(0x100), 4)
    assert guest.device.read(1, 0x108C, 4) == 0
    # The ring's old entries point where the new channel maps nothing.
    for page in range(16):
        guest.entry(0xA0000 + 0x1000 * page, 0)
    guest.put = 0
    guest.write(0x3008, 0xC0000000 | INSTANCE >> 12)
    guest.write(0x300C, 0x001F0001)
    guest.playlist(1)
    guest.flush()
    time.sleep(0.05)
    kernels.ready.set()
    assert busy.wait(occupied) == "done"
    time.sleep(0.05)
    assert guest.read(0x2100) & 1 << 28 == 0, "nothing ran"


def test_work_that_was_submitted_before_the_channel_was_bound_waits_for_its_turn(make_machine: Make) -> None:
    kernels = Kernels()
    machine = make_machine(executor=kernels, watchdog_s=60.0)
    busy, guest = (machine.guest(name).start() for name in ("busy", "guest"))
    occupied = busy.submit(LAUNCH)
    assert kernels.started.wait(5)
    guest.write(0x3008, 0)
    number = guest.submit([])
    guest.write(0x3008, 0xC0000000 | INSTANCE >> 12)
    guest.write(0x300C, 0x001F0001)
    guest.playlist(1)
    assert guest.wait(number, 0.1) == "timeout"
    kernels.ready.set()
    assert busy.wait(occupied) == "done"
    assert guest.wait(number) == "done"
