"""Two stock guests share the GPU under full virtualization: both work, neither kernel complains, and what one
does wrong is its own affair."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

import pytest

from gpuvm.vmm.errors import GuestError
from gpuvm.vmm.fleet import Fleet, Plan
from gpuvm.vmm.qemu import Machine, Result

MIB = 1 << 20
STRESS = "gpuvm-stress --seconds 1 --over 1.2"
WORK_S = 200.0

pytestmark = [pytest.mark.guests, pytest.mark.timeout(600)]


def stress(machine: Machine) -> Result:
    return machine.run(STRESS, timeout=WORK_S)


def verdict(result: Result) -> str:
    """The line that the stress ends with; it must be a good one."""
    text = result.output.decode()
    assert result.status == 0, text + result.errors.decode()
    assert re.search(
        r"^gpuvm-stress: ok, .* [1-9]\d* kernels, .* [1-9]\d* checks of .*: 0 corrupt bytes$", text
    )
    return text


def test_two_guests_work_and_one_survives_the_others_faults_and_death(boot: Callable[[Plan], Fleet]) -> None:
    fleet = boot(Plan(2, "fv-naive", vram=32 * MIB))
    first, second = fleet.machines
    for machine in fleet.machines:
        assert "renderD128" in machine.boots[0].nodes
        assert machine.run("cat /sys/class/drm/renderD128/device/driver/module/initstate").output == b"live\n"

    # Both at once: more buffers than video memory, all bytes compared.
    for result in fleet.each(stress):
        assert isinstance(result, Result)
        assert "32 MiB" in verdict(result)
    assert [machine.problems() for machine in fleet.machines] == [[], []]

    # One goes on while the other's channel faults and its QEMU is then killed in the middle of work.
    results: list[Result] = []
    worker = threading.Thread(target=lambda: results.append(stress(second)))
    worker.start()
    fault = first.run("gpuvm-fault kernel", timeout=WORK_S)
    assert b"gpuvm-fault: ok" in fault.output, fault.output.decode()
    assert any("fifo: fault" in message.text for message in first.problems())
    killed = threading.Timer(1.0, first.kill)
    killed.start()
    with pytest.raises(GuestError, match="ended with status -9"):
        first.run("gpuvm-stress --seconds 100")
    worker.join()
    verdict(results[0])
    assert second.problems() == []

    # The slot of the dead one is free again, and clean.
    again = fleet.machine(first.name)
    with again:
        again.start()
        assert "renderD128" in again.wait_ready(240).nodes
        assert again.run("gpuvm-info").status == 0
        assert again.problems() == []
        assert again.stop() == 0
