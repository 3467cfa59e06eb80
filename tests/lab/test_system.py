"""Systems of each mode, end to end: programs run and verify, what they cost is counted, nothing is left."""

import gc
import os
import threading
from collections.abc import Iterator

import pytest

from gpuvm.lab.experiment import Plan, carry_out
from gpuvm.lab.modes import MODES
from gpuvm.lab.runner import Job, Run, run_together
from gpuvm.lab.system import LabMachine, System
from gpuvm.workloads import WORKLOADS

MIB = 1 << 20


@pytest.fixture(params=list(MODES))
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    with System(request.param, vram=64 * MIB, memory=64 * MIB) as made:
        yield made


def run(guests: list[LabMachine], *names: str) -> list[Run]:
    return run_together(
        [
            Job(guest, WORKLOADS[name], WORKLOADS[name].inputs("small"))
            for guest, name in zip(guests, names, strict=True)
        ]
    )


def test_a_program_verifies_in_every_mode(system: System) -> None:
    (copied,) = run(system.guests, "CPY")
    assert copied.error == ""
    assert copied.verified
    assert copied.counters["bytes_host_to_device"] >= 1 * MIB
    assert copied.phases["htod"].counters["bytes_host_to_device"] >= 1 * MIB
    assert "bytes_host_to_device" not in copied.phases["dtoh"].counters


def test_only_full_virtualization_traps(system: System) -> None:
    (done,) = run(system.guests, "NOP")
    trapped = sum(count for name, count in done.counters.items() if name.startswith("traps_"))
    direct = sum(
        done.counters.get(f"direct_bar{bar}_{way}", 0) for bar in (0, 1, 3) for way in ("read", "write")
    )
    if MODES[system.mode].shared:
        assert trapped > {"fv": 100, "pv-drm": 0}.get(system.mode, 1000)
        assert (direct > 0) == (system.mode in ("fv-bar3", "fv-optimized", "fv", "pv-multicall"))
    else:
        assert trapped == 0
        assert direct > 1000
    if system.mode == "fv-naive":
        assert done.counters["shadow_passes"] > 0


def test_the_same_program_costs_the_same_events_again() -> None:
    with System("native", vram=64 * MIB, memory=64 * MIB) as system:
        run(system.guests, "NOP")
        first, second = (run(system.guests, "NOP")[0].counters for _ in range(2))
    # BAR0 is polled and takes acknowledgements of interrupts, so that count depends on the moment.
    for name in ("direct_bar1_write", "direct_bar3_write", "direct_bar3_bytes_written"):
        assert first[name] == second[name]


def test_virtualization_is_dearer_in_device_time() -> None:
    with System("native", vram=64 * MIB, memory=64 * MIB) as native:
        (bare,) = run(native.guests, "NOP")
    with System("fv-naive", vram=64 * MIB, memory=64 * MIB) as full:
        (virtual,) = run(full.guests, "NOP")
    assert virtual.device_s > 10 * bare.device_s


def test_machines_count_their_own_events() -> None:
    with System("fv-naive", 2, vram=64 * MIB, memory=64 * MIB) as system:
        idle, busy = system.guests
        before = idle.counters()
        (done,) = run([busy], "CPY")
        assert done.verified
        assert idle.counters() == before


def test_different_programs_share_the_gpu() -> None:
    with System("fv-naive", 2, vram=64 * MIB, memory=64 * MIB) as system:
        runs = run(system.guests, "CPY", "PINCPY")
        assert [(done.vm, done.workload, done.verified) for done in runs] == [
            ("vm0", "CPY", True),
            ("vm1", "PINCPY", True),
        ]


def test_a_mode_that_does_not_share_has_one_machine() -> None:
    with pytest.raises(ValueError, match="passthrough has exactly one machine, got 2"):
        System("passthrough", 2)


def test_out_of_memory_fails_the_program_and_not_the_machine() -> None:
    copy = WORKLOADS["CPY"]
    with System("fv-naive", vram=64 * MIB, memory=64 * MIB) as system:
        (big,) = run_together([Job(system.guests[0], copy, copy.inputs("small", bytes=65 * MIB))])
        assert not big.verified
        assert "CUDA_ERROR_OUT_OF_MEMORY" in big.error
        (small,) = run(system.guests, "CPY")
        assert small.verified


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_left(mode: str) -> None:
    with System(mode, vram=64 * MIB, memory=64 * MIB) as system:
        run(system.guests, "CPY")
    del system
    gc.collect()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("gf100")]
    names = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd)]
    assert not [name for name in names if "vram" in name or "gpuvm-ram" in name]


def _is_link(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_a_plan_runs_every_workload_in_every_mode_and_machine() -> None:
    plan = Plan(
        modes=["native", "fv-naive"],
        workloads=[WORKLOADS["NOP"], WORKLOADS["CPY"]],
        size="small",
        vms=2,
        stagger=1,
        vram=64 * MIB,
        memory=64 * MIB,
    )
    runs = list(carry_out(plan))
    assert len(runs) == plan.runs == 6
    assert all(done.verified for done in runs)
    assert [(done.mode, done.vm, done.workload) for done in runs] == [
        ("native", "vm0", "NOP"),
        ("fv-naive", "vm0", "NOP"),
        ("fv-naive", "vm1", "CPY"),
        ("native", "vm0", "CPY"),
        ("fv-naive", "vm0", "CPY"),
        ("fv-naive", "vm1", "NOP"),
    ]
