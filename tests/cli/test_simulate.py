"""`gpuvm simulate` as a person meets it: recorded or made traces in, tables and JSON out."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpuvm.cli.main import app
from gpuvm.lab.traces import Entry, Stream, write

US = 1000


def simulate(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["simulate", *(str(argument) for argument in arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace"
    streams = [
        Stream(
            "vm0", "fv", name, "small",
            [Entry(1, "L", 50 * US, time * US, 60 * US, time * US, 500, 4000)] * 5, 10 * US, 10 * US,
        )
        for name, time in (("SHORT", 100), ("LONG", 900))
    ]  # fmt: skip
    write(path, streams, {})
    return path


def test_a_fleet_in_a_table_and_as_json(trace: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    status, text, _ = simulate("--trace", trace, "--vms", 4, "--gpus", 2, "--until", 1, "--json", file)
    assert status == 0
    assert "4 machines on 2 GPUs under fifo, 1 s of virtual time, seed 2014" in text
    document = json.loads(file.read_text())
    assert [row["program"] for row in document["vms"]] == ["SHORT/fv", "LONG/fv"] * 2
    assert [row["gpu"] for row in document["vms"]] == [0, 0, 1, 1]
    assert sum(row["launches"] for row in document["vms"]) == document["fleet"]["launches"] > 1000
    assert document["run"]["engine"] == "local"


def test_the_same_seed_gives_the_same_result_on_dask_workers(trace: Path, tmp_path: Path) -> None:
    documents = []
    for engine in ("local", "dask"):
        file = tmp_path / engine
        status, _, error = simulate(
            "--trace", trace, "--vms", 30, "--gpus", 6, "--until", 0.2, "--jitter", 0.2,
            "--engine", engine, "--workers", 2, "--json", file,
        )  # fmt: skip
        assert status == 0, error
        documents.append(json.loads(file.read_text()))
        del documents[-1]["run"]
    assert documents[0] == documents[1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--scheduler", "lottery"), "--scheduler must be one of direct, fifo, credit"),
        (("--engine", "spark"), "--engine must be one of local, dask, simpy, got 'spark'"),
        (("--weights", "1,0"), "--weights must be whole numbers of at least 1 such as 1 or 1,2,4, got '1,0'"),
        (("--depth", "two"), "--depth must be whole numbers"),
        (("--workload", "HS"), "--workload must be among the traces' (SHORT, LONG), got 'hs'"),
        (("--placement", "best"), "--placement must be one of static, least-loaded, got 'best'"),
        (("--cluster", "tcp://x:1"), "--cluster needs --engine dask, got local"),
        (("--trace", "/nowhere"), "/nowhere must be a file; there is none"),
        (("--json", "/nowhere/x"), "--json must name a file in a folder that exists, got /nowhere/x"),
    ],
)
def test_a_wrong_request_is_one_sentence(trace: Path, arguments: tuple[str, ...], sentence: str) -> None:
    status, text, error = simulate("--trace", trace, *arguments)
    assert (status, text) == (2, "")
    assert error.startswith(f"gpuvm: {sentence}")
    assert error.count("\n") == 1


def test_what_bench_records_can_be_simulated(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    result = CliRunner().invoke(
        app,
        ["bench", "--mode", "native", "--workload", "NOP,LUD", "--size", "small", "--record", str(trace)],
    )
    assert result.exit_code == 0, result.stderr
    assert "Recorded 2 programs" in result.stderr
    status, text, error = simulate("--trace", trace, "--vms", 3, "--until", 0.05)
    assert status == 0, error
    assert "LUD/native" in text
