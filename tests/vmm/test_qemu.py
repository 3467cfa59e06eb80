"""QEMU's command line, its monitor, the kernel log's complaints, and what a plan asks of the daemon."""

from __future__ import annotations

import json
import socket
import stat
import threading
from pathlib import Path

import pytest

from gpuvm.vmm.errors import QemuError, VmError
from gpuvm.vmm.fleet import Plan
from gpuvm.vmm.image import Image
from gpuvm.vmm.qemu import locate
from gpuvm.vmm.qemu.kernellog import KernelMessage, parse, problems
from gpuvm.vmm.qemu.locate import Qemu
from gpuvm.vmm.qemu.monitor import Monitor
from gpuvm.vmm.qemu.options import MIB, Guest, command_line

QEMU = Qemu(("ld.so", "qemu"), "11.1.3", "somewhere")


def after(command: list[str], option: str) -> list[str]:
    return [command[at + 1] for at, word in enumerate(command) if word == option]


def test_the_guests_memory_can_be_handed_over_and_the_device_is_plugged() -> None:
    guest = Guest("a,b", Image(Path("/i")), 768 * MIB, 2, (Path("/s,1"),), ("quiet",))
    command = command_line(QEMU, guest, 5, 6, Path("/l,g/serial"))
    assert command[:2] == ["ld.so", "qemu"]
    assert after(command, "-object") == ["memory-backend-memfd,id=ram,size=768M,share=on"]
    assert "memory-backend=ram" in after(command, "-machine")[0]
    device = json.loads(after(command, "-device")[-1])
    assert device["driver"] == "vfio-user-pci"
    assert device["socket"] == {"type": "unix", "path": "/s,1"}
    assert after(command, "-serial") == ["file:/l,,g/serial"]
    assert after(command, "-append")[0].endswith(" quiet")
    assert "-no-reboot" in command
    assert "tcg" in after(command, "-accel")[0]


def test_kvm_has_the_hosts_processor() -> None:
    command = command_line(
        Qemu(("q",), "11", "x", {}, "kvm"), Guest("a", Image(Path("/i"))), None, None, None
    )
    assert after(command, "-accel") == ["kvm"]
    assert after(command, "-cpu") == ["host"]


def test_a_person_gets_the_serial_line_and_a_probe_no_devices() -> None:
    person = command_line(QEMU, Guest("a", Image(Path("/i")), console=True), 5, 6, None)
    assert "gpuvm.console" in after(person, "-append")[0]
    assert after(person, "-serial") == ["chardev:serial"]
    probe = command_line(
        QEMU, Guest("a", Image(Path("/i")), sockets=(Path("/s"),), probe=True), None, 6, None
    )
    assert after(probe, "-device") == []
    assert "gpuvm.probe" in after(probe, "-append")[0]


def fake_qemu(folder: Path, version: str, devices: str) -> Path:
    path = folder / "qemu-system-x86_64"
    path.write_text(
        f'#!/bin/sh\ncase "$*" in *help*) echo \'{devices}\';; *) echo "QEMU emulator {version}";; esac\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_machines_own_qemu_is_taken_if_it_can_do_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUVM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    fake_qemu(tmp_path, "version 11.0.2 (Debian)", 'name "vfio-user-pci", bus PCI')
    found = locate.find()
    assert found is not None
    assert (found.version, found.where, found.posts_many) == (
        "11.0.2",
        str(tmp_path / "qemu-system-x86_64"),
        True,
    )
    fake_qemu(tmp_path, "version 10.0.1", 'name "vfio-pci", bus PCI')
    assert locate.find() is None
    assert "10.0.1, without vfio-user-pci" in locate.lacks((str(tmp_path / "qemu-system-x86_64"),), "it")


def test_a_qemu_that_is_named_must_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUVM_QEMU", str(fake_qemu(tmp_path, "version 9.2", "")))
    with pytest.raises(QemuError, match=r"GPUVM_QEMU must be a QEMU 10\.1 or newer.*9\.2, without"):
        locate.find()


def test_the_kernels_log_is_read_and_its_complaints_are_found() -> None:
    records = [
        b"6,1,5000000,-;nouveau 0000:00:02.0: NVIDIA GF100 (0c0080a1)",
        b"3,2,6000000,-;nouveau 0000:00:02.0: fifo: fault 01 [WRITE]\n SUBSYSTEM=pci",
        b"4,3,6000001,-;ACPI: IRQ 4 override to edge(!), high(!)",
        b"4,4,6000002,-;------------[ cut here ]------------",
        b"4,5,6000003,-;WARNING: CPU: 0 PID: 1 at drivers/gpu/x.c:1",
        b"4,6,6000004,-;[TTM] Buffer eviction failed",
        b"0,7,6000005,-;Kernel panic - not syncing",
        b"noise",
    ]
    messages = [message for record in records if (message := parse(record)) is not None]
    assert messages[1] == KernelMessage(3, 6.0, "nouveau 0000:00:02.0: fifo: fault 01 [WRITE]")
    assert [message.text.split()[0] for message in problems(messages)] == [
        "nouveau",
        "WARNING:",
        "[TTM]",
        "Kernel",
    ]


def test_the_monitor_asks_and_is_refused() -> None:
    here, there = socket.socketpair()

    def qemu() -> None:
        with there, there.makefile("rb") as lines:
            there.sendall(b'{"QMP": {}}\n')
            for answer in (
                b'{"return": {}}',
                b'{"event": "STOP"}\n{"return": {"status": "running"}}',
                b'{"error": {"class": "X", "desc": "not so"}}',
            ):
                lines.readline()
                there.sendall(answer + b"\n")

    thread = threading.Thread(target=qemu)
    thread.start()
    monitor = Monitor(here)
    assert monitor.execute("query-status") == {"status": "running"}
    with pytest.raises(QemuError, match="refuses system_reset: not so"):
        monitor.execute("system_reset")
    thread.join()
    with pytest.raises(QemuError, match="must answer query-status"):
        monitor.execute("query-status")
    monitor.close()


def test_a_plan_has_memory_for_all_and_room_for_shadows(tmp_path: Path) -> None:
    config = Plan(3, vram=64 * MIB).config(tmp_path, True)
    assert [vm.name for vm in config.vm] == ["vm0", "vm1", "vm2"]
    assert config.gpu.vram == 3 * 64 * MIB + config.gpu.reserve
    assert Plan(1, "passthrough", vram=64 * MIB).config(tmp_path, True).gpu.vram == 64 * MIB
    with pytest.raises(VmError, match="must have one guest, got 2"):
        Plan(2, "passthrough").config(tmp_path, True)
