"""`gpuvm reproduce` as a person meets it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpuvm.cli.main import app


def reproduce(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["reproduce", *(str(argument) for argument in arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_an_experiment_by_number_leaves_its_files_and_the_page(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    status, text, progress = reproduce(
        "1", "--out", out, "--size", "small", "--modes", "native,fv", "--workloads", "NOP,LUD"
    )
    assert status == 0, progress
    assert "4 of 4 runs verified" in text
    assert text.rstrip().endswith("index.html")
    assert {"times.json", "times.csv", "times.svg", "index.html"} <= {path.name for path in out.iterdir()}
    status, _, progress = reproduce(
        "times", "--out", out, "--size", "small", "--modes", "native,fv", "--workloads", "NOP,LUD"
    )
    assert status == 0
    assert "measured before" in progress


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("speed",), "EXPERIMENT must be one of times, phases, accesses, scaling,"),
        (("--modes", "xen"), "--modes must be one of native, passthrough,"),
        (("--workloads", "DOOM"), "--workloads must be one of NOP, LOOP,"),
        (("--size", "huge"), "--size must be one of paper, small, got 'huge'"),
        (("--data", "/nowhere"), "--data must be a folder laid out as Rodinia's data, got /nowhere"),
    ],
)
def test_a_wrong_request_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    status, text, error = reproduce("--out", tmp_path, *arguments)
    assert (status, text) == (2, "")
    assert error.startswith(f"gpuvm: {sentence}")
    assert error.count("\n") == 1
