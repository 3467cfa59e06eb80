"""Inputs are deterministic, shared read-only, in Rodinia's shapes, or refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpuvm.workloads import SIZES, WORKLOADS, WorkloadError
from gpuvm.workloads.base import CACHED_INPUTS


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_same_seed_makes_the_same_input(name: str) -> None:
    workload = WORKLOADS[name]
    first = workload.inputs("small")
    assert workload.inputs("small") is first
    workload.forget()
    again, other = workload.inputs("small"), workload.inputs("small", seed=1)
    assert first.parameters == again.parameters
    assert first.source == "generated"
    for key, array in first.arrays.items():
        np.testing.assert_array_equal(array, again[key])
        assert not array.flags.writeable
        assert array.flags.c_contiguous
    changed = [
        not np.array_equal(first[key], other[key]) for key in first.arrays if key not in ("points", "target")
    ]
    assert all(changed)


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_has_both_sizes(name: str) -> None:
    assert tuple(WORKLOADS[name].sizes) == SIZES


def test_the_papers_sizes() -> None:
    paper = {name: dict(workload.sizes["paper"]) for name, workload in WORKLOADS.items()}
    assert paper["MMUL"] == paper["FMADD"] == {"n": 1024}
    assert paper["CPY"] == paper["PINCPY"] == {"bytes": 256 << 20}
    assert paper["BP"] == {"inputs": 65536}
    assert paper["BFS"] == {"nodes": 1_000_000}
    assert paper["HW"]["frames"] == 5
    assert paper["HS"] == {"n": 512, "steps": 2, "pyramid": 2}
    assert paper["LUD"] == {"n": 256}
    assert (paper["NN"]["k"], paper["NN"]["latitude"], paper["NN"]["longitude"]) == (5, 30, 90)
    assert paper["NW"] == {"n": 2048, "penalty": 10}
    assert paper["SRAD"] == {"rows": 502, "columns": 458, "lambda": 0.5, "iterations": 100}
    assert paper["SRAD2"] == {"n": 2048, "region": 128, "lambda": 0.5, "iterations": 2}


def test_few_inputs_are_kept() -> None:
    loop = WORKLOADS["LOOP"]
    kept = [loop.inputs("small", seed=seed) for seed in range(CACHED_INPUTS + 1)]
    assert loop.inputs("small", seed=CACHED_INPUTS) is kept[-1]
    assert loop.inputs("small", seed=0) is not kept[0]


def test_a_graph_of_degree_six_links_both_ways() -> None:
    inputs = WORKLOADS["BFS"].inputs("small")
    nodes, edges = inputs["nodes"], inputs["edges"]
    assert 5.8 < len(edges) / len(nodes) < 6.2
    assert (nodes[1:, 0] == nodes[:-1].sum(axis=1)).all()
    near = np.repeat(np.arange(len(nodes)), nodes[:, 1])
    assert sorted(zip(near.tolist(), edges.tolist(), strict=True)) == sorted(
        zip(edges.tolist(), near.tolist(), strict=True)
    )


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("LOOP", {"n": -1}),
        ("LOOP", {"n": 1.5}),
        ("MMUL", {"n": 0}),
        ("CPY", {"bytes": 0}),
        ("BP", {"inputs": 40}),
        ("BFS", {"nodes": 0}),
        ("HW", {"rows": 100}),
        ("HW", {"inner": 0}),
        ("HS", {"pyramid": 8}),
        ("LUD", {"n": 100}),
        ("NN", {"k": 0}),
        ("NW", {"n": 17}),
        ("NW", {"penalty": -1}),
        ("SRAD", {"rows": 1}),
        ("SRAD2", {"region": 1}),
        ("SRAD2", {"n": 24}),
    ],
)
def test_parameters_that_cannot_be_are_refused(name: str, parameters: dict[str, float]) -> None:
    with pytest.raises(WorkloadError, match=name) as refusal:
        WORKLOADS[name].inputs("small", **parameters)
    assert "\n" not in str(refusal.value)


def test_unknown_sizes_and_parameters_are_named() -> None:
    with pytest.raises(WorkloadError, match="one of paper, small, not 'huge'"):
        WORKLOADS["HS"].inputs("huge")
    with pytest.raises(WorkloadError, match="has no parameter 'm'; its parameters are: n"):
        WORKLOADS["LUD"].inputs("small", m=3)


def test_a_directory_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="is none"):
        WORKLOADS["MADD"].inputs("small", tmp_path / "absent")


@pytest.mark.parametrize("name", ["BFS", "HS", "LUD", "NN", "SRAD"])
def test_a_missing_file_is_one_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="must") as refusal:
        WORKLOADS[name].inputs("small", tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["NOP", "LOOP", "MMUL", "CPY", "BP", "NW", "SRAD2", "HW"])
def test_what_rodinia_has_no_file_for_is_generated(name: str, tmp_path: Path) -> None:
    assert WORKLOADS[name].inputs("small", tmp_path).source == "generated"


@pytest.mark.parametrize("size", SIZES)
def test_rodinias_own_files(size: str, rodinia: Path) -> None:
    paper = size == "paper"
    made = {name: WORKLOADS[name].inputs(size, rodinia) for name in ("BFS", "HS", "LUD", "NN", "SRAD")}
    for workload in WORKLOADS.values():
        workload.forget()
    assert made["HS"]["temperature"].shape == ((512, 512) if paper else (70, 70))
    assert (
        made["HS"]["temperature"][0, 0] == np.float32(323.829834)
        or 300 < made["HS"]["temperature"][0, 0] < 350
    )
    assert made["LUD"]["matrix"].shape == ((256, 256) if paper else (64, 64))
    assert len(made["NN"]["positions"]) == (42764 if paper else 1000)
    assert made["NN"]["positions"].tolist()[0] == [np.float32(66.5), np.float32(79.2)]
    assert made["SRAD"]["image"].shape == ((502, 458) if paper else (50, 45))
    assert made["SRAD"]["image"][0, :3].tolist() == [127, 156, 156]
    assert len(made["BFS"]["nodes"]) == (65536 if paper else 4096)
    assert made["BFS"].source.startswith(f"bfs/graph{65536 if paper else 4096}.txt")
    if paper:
        assert made["BFS"].source.endswith("(65536 nodes, where the size has 1000000)")
        assert made["LUD"].source == "lud/256.dat"
    else:
        assert made["LUD"].source == "lud/256.dat (first 64 rows and columns)"
