"""`gpuvm bench` as a person and as a script meet it: table, JSON, exit status, wrong requests."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpuvm.cli.main import app
from gpuvm.lab.modes import MODES
from gpuvm.lab.runner import Run
from gpuvm.schedulers import NAMES
from gpuvm.workloads import WORKLOADS
from gpuvm.workloads.verdict import Verdict


def bench(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["bench", *(str(argument) for argument in arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_every_mode_and_machine_stands_in_the_document(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    status, table, progress = bench(
        "--mode", "native,passthrough,fv-naive", "--workload", "nop,CPY", "--size", "small", "--vms", "2",
        "--json", file,
    )  # fmt: skip
    assert status == 0
    assert "8 of 8 runs verified." in table
    assert "slowdown" in table
    assert "[8/8] fv-naive vm1 CPY" in progress
    document = json.loads(file.read_text())
    assert list(document) == ["schema", "machine", "runs"]
    assert document["schema"] == 1
    assert document["machine"]["cores"] >= 1
    assert {(run["mode"], run["workload"], run["vm"]) for run in document["runs"]} == {
        (mode, workload, vm)
        for workload in ("NOP", "CPY")
        for mode, vm in (("native", "vm0"), ("passthrough", "vm0"), ("fv-naive", "vm0"), ("fv-naive", "vm1"))
    }
    for run in document["runs"]:
        assert run["verified"] is True
        assert run["size"] == "small"
        assert run["device_s"] == pytest.approx(sum(phase["device_s"] for phase in run["phases"].values()))
        assert run["wall_s"] >= sum(phase["wall_s"] for phase in run["phases"].values()) > 0


def test_a_wrong_result_fails_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        WORKLOADS["CPY"], "check", lambda inputs, outputs: Verdict(False, "byte[3] must be 1")
    )
    status, table, progress = bench("--mode", "native", "--workload", "CPY", "--size", "small")
    assert status == 1
    assert "0 of 1 runs verified." in table
    assert "NOT VERIFIED: byte[3] must be 1" in progress


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--mode", "xen"), f"gpuvm: --mode must be one of {', '.join(MODES)}, got 'xen'\n"),
        (("--workload", "HS,HOT"), f"gpuvm: --workload must be one of {', '.join(WORKLOADS)}, got 'HOT'\n"),
        (("--scheduler", "lottery"), f"gpuvm: --scheduler must be one of {', '.join(NAMES)}, got 'lottery'\n"),
        (("--size", "huge"), "gpuvm: --size must be one of paper, small, got 'huge'\n"),
        (("--data", "/nowhere"), "gpuvm: --data must be a folder laid out as Rodinia's data, got /nowhere\n"),
        (
            ("--json", "/nowhere/x"),
            "gpuvm: --json must name a file in a folder that exists, got /nowhere/x\n",
        ),
    ],
)
def test_a_wrong_request_is_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    assert bench(*arguments) == (2, "", sentence)


def test_data_that_is_not_rodinia_s_is_named(tmp_path: Path) -> None:
    (tmp_path / "lud").mkdir()
    (tmp_path / "lud" / "256.dat").write_text("not a matrix")
    status, _, error = bench("--workload", "LUD", "--mode", "native", "--data", tmp_path)
    assert status == 2
    assert error.count("\n") == 1
    assert "256.dat" in error


def test_too_many_machines_is_one_sentence() -> None:
    status, _, error = bench("--mode", "fv-naive", "--workload", "NOP", "--size", "small", "--vms", "64")
    assert status == 2
    assert error.startswith("gpuvm: ")
    assert error.count("\n") == 1


def test_a_run_that_failed_is_told_in_a_sentence() -> None:
    from gpuvm.cli.progress import failure

    run = Run("fv-naive", "HS", "paper", "vm1", error="cuCtxSynchronize must succeed")
    assert failure(run) == "HS in vm1 (fv-naive) was not verified: cuCtxSynchronize must succeed"
