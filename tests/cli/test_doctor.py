"""`gpuvm doctor` says what is here and what is not, as text for people and as JSON for tools."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpuvm.cli.main import app
from gpuvm.lab import doctor, machine
from gpuvm.lab.doctor import State
from gpuvm.vmm import kvm


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUVM_CACHE_DIR", str(tmp_path))


def test_json_names_every_finding_with_its_state() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0
    findings = {row["name"]: row for row in json.loads(result.stdout)}
    assert {"Python", "CPU", "vectors", "LLVM", "memory", "memfd", "cache", "NVRTC", "KVM", "QEMU"} <= set(
        findings
    )
    assert findings["Python"]["state"] == "ok"
    assert findings["LLVM"]["value"].startswith(machine.llvm_version())


def test_table_ends_in_a_verdict_in_words() -> None:
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert result.stdout.strip().splitlines()[-1].startswith("gpuvm works here")


def test_what_is_missing_fails_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "memfd_create", _refuse)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "gpuvm cannot work here before this is mended: memfd." in result.stdout


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    (finding,) = [f for f in doctor.examine(in_the_way / "cache") if f.name == "cache"]
    assert finding.state is State.OPTIONAL
    assert "Not a directory" in finding.value


def test_kvm_is_tried_and_not_only_looked_at(tmp_path: Path) -> None:
    assert "No such file" in kvm.probe(str(tmp_path / "kvm"))
    assert kvm.probe("/dev/null").startswith("/dev/null opens but a guest does not start")


def _refuse(*_: object) -> int:
    raise OSError(38, "Function not implemented")
