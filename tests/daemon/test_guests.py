"""Guests in other processes on one daemon's GPU: they work together, die, come back, and do not notice each
other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from daemon_rig import MIB, PROGRAMS, Guest, Start, eventually

from gpuvm.hypervisor import HypervisorError
from gpuvm.schedulers import NAMES
from gpuvm.vmm.daemon import Daemon, DaemonError, VmConfig, build
from gpuvm.vmm.daemon.protocol import Set
from gpuvm.vmm.vfio_user import Client, RemoteError

Guests = Callable[..., Guest]


def state(daemon: Daemon, name: str) -> str:
    return daemon.slot(name).status().state


@pytest.mark.parametrize("mode", ["passthrough", "fv-naive"])
def test_a_guests_program_runs_on_a_served_gpu(start: Start, guests: Guests, mode: str) -> None:
    daemon = start({"name": "a", "mode": mode})
    guest = guests(daemon.slot("a").config.socket, str(PROGRAMS / "vector_add.py"), "3000")
    assert guest.end() == (0, "3000 sums are right\n")
    assert eventually(lambda: state(daemon, "a") == "idle")
    status = daemon.slot("a").status()
    assert status.clients == 1
    assert status.launches >= 1
    assert status.busy_ns > 0
    assert status.vram_used == 0  # nothing is left to the next one
    assert status.direct if mode == "passthrough" else status.traps


def test_vms_come_and_go_while_others_work(start: Start, guests: Guests) -> None:
    daemon = start({"name": "a"}, {"name": "b", "weight": 3})
    first = guests(daemon.slot("a").config.socket, "work")
    second = guests(daemon.slot("b").config.socket, "work")
    assert first.line() == second.line() == "works"
    daemon.add(VmConfig("c", vram=32 * MIB, channels=8))
    third = guests(daemon.slot("c").config.socket, "spin")
    assert third.line() == "spins"
    assert [vm.state for vm in daemon.status().vms] == ["connected"] * 3
    daemon.remove("c")  # in the middle of a kernel that never ends
    assert third.line() == "lost"
    assert [vm.name for vm in daemon.status().vms] == ["a", "b"]
    for guest in (first, second):
        guest.tell("enough")
        assert guest.end() == (0, "0 wrong\n")
    daemon.add(VmConfig("c", vram=32 * MIB, channels=8))


def test_scheduler_weight_and_cap_change_under_work(start: Start, guests: Guests) -> None:
    daemon = start({"name": "a"}, {"name": "b"})
    working = [guests(vm.socket, "work") for vm in daemon.status().vms]
    assert [guest.line() for guest in working] == ["works", "works"]

    def launches() -> list[int]:
        return [vm.launches for vm in daemon.status().vms]

    def all_go_on(before: list[int]) -> bool:
        return eventually(lambda: all(a > b for a, b in zip(launches(), before, strict=True)))

    for scheduler in NAMES:
        daemon.set(Set(scheduler=scheduler))
        assert daemon.status().scheduler == scheduler
        assert all_go_on(launches()), scheduler
    daemon.set(Set(scheduler="fair", name="a", weight=5, cap=50.0))
    assert [(vm.weight, vm.cap) for vm in daemon.status().vms] == [(5, 50), (1, 0)]
    for wrong, error in (
        (Set(scheduler="direct"), "caps"),
        (Set(scheduler="fifo", name="b", weight=0), "at least 1"),
        (Set(scheduler="fifo", name="b", cap=101.0), "100 percent"),
        (Set(scheduler="best"), "one of direct, fifo"),
        (Set(name="c", weight=1), "'c'"),
        (Set(weight=1), "name of the VM"),
    ):
        with pytest.raises((DaemonError, HypervisorError), match=error):
            daemon.set(wrong)
        assert daemon.status().scheduler == "fair"
    assert [(vm.weight, vm.cap) for vm in daemon.status().vms] == [(5, 50), (1, 0)]
    assert all_go_on(launches())
    daemon.set(Set(name="a", cap=0.0))
    daemon.set(Set(scheduler="direct"))
    for guest in working:
        guest.tell("enough")
        assert guest.end() == (0, "0 wrong\n")


def test_a_killed_guest_leaves_its_place_to_the_next(start: Start, guests: Guests) -> None:
    daemon = start({"name": "a"}, {"name": "b"})
    works = guests(daemon.slot("a").config.socket, "work")
    assert works.line() == "works"
    killed = guests(daemon.slot("b").config.socket, "spin")
    assert killed.line() == "spins"
    assert daemon.slot("b").status().vram_used > 0
    killed.kill()
    assert eventually(lambda: state(daemon, "b") == "idle")
    status = daemon.slot("b").status()
    assert (status.vram_used, status.resets) == (0, 1)
    following = guests(daemon.slot("b").config.socket, str(PROGRAMS / "vector_add.py"), "100")
    assert following.end() == (0, "100 sums are right\n")
    works.tell("enough")
    assert works.end() == (0, "0 wrong\n")


def test_guests_that_connect_again_go_on_after_a_restart(
    settings: dict[str, Any], start: Start, guests: Guests
) -> None:
    daemon = start({"name": "a"})
    guest = guests(daemon.slot("a").config.socket, "stubborn")
    assert guest.line() == "before True"
    daemon.close()
    guest.tell("go on")
    assert guest.line() == "lost True"
    start({"name": "a"})
    guest.tell("go on")
    assert guest.end() == (0, "after True\n")


def test_the_end_comes_although_a_kernel_never_ends(start: Start, guests: Guests) -> None:
    before = {thread.ident for thread in threading.enumerate()}
    daemon = start({"name": "a"}, drain=0.2)
    guest = guests(daemon.slot("a").config.socket, "spin")
    assert guest.line() == "spins"
    begin = time.monotonic()
    daemon.close()
    assert time.monotonic() - begin < 0.5 * daemon.config.gpu.watchdog  # it was not the watchdog
    assert {thread.ident for thread in threading.enumerate()} <= before
    guest.tell("end")
    assert guest.end()[0] == 0


def test_a_place_takes_one_guest_at_a_time(start: Start) -> None:
    daemon = start({"name": "a"})
    path = daemon.slot("a").config.socket
    with Client(path), pytest.raises(RemoteError, match="busy"):
        Client(path)


def test_what_does_not_fit_changes_nothing(start: Start, settings: dict[str, Any]) -> None:
    daemon = start({"name": "a"})
    free = daemon.status().vram_free
    for vm, error in (
        (VmConfig("a", vram=32 * MIB), "must be new"),
        (VmConfig("b", vram=1 << 40), "bytes of video memory"),
        (VmConfig("b", mode="passthrough"), "for itself"),
        (VmConfig("b", mode="magic"), "must be one of passthrough"),
        (VmConfig("b", vram=MIB, socket=daemon.slot("a").config.socket), "another server listens"),
        (VmConfig("b", vram=MIB, socket="/proc/none/b"), "folder that can be made"),
    ):
        with pytest.raises((DaemonError, HypervisorError), match=error):
            daemon.add(vm)
    assert daemon.status().vram_free == free
    assert [vm.name for vm in daemon.status().vms] == ["a"]
    with pytest.raises(DaemonError, match="a daemon that runs has it"):
        Daemon(build(settings))
