"""The PTX files are what the CUDA C beside them compiles to, and the OpenCL twins have the same kernels."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from gpuvm.workloads import WORKLOADS
from gpuvm.workloads.kernels import build
from gpuvm.workloads.opencl import TWINS

SOURCES = build.sources()
ENTRY = re.compile(r"__global__ void (\w+)\(")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_ptx_was_built_from_this_source(source: Path) -> None:
    ptx = source.with_suffix(".ptx")
    assert build.recorded(ptx) == build.digest(source), f"{source.name} changed: run kernels/build.py"
    text = ptx.read_text()
    assert text.isascii()
    assert ".target sm_50" in text
    assert re.findall(r"\.visible \.entry (\w+)\(", text) == ENTRY.findall(source.read_text())


@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="NVRTC comes with the extra 'cuda'")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_nvrtc_makes_the_same_ptx(source: Path) -> None:
    text = build.compile_source(source)
    kept = source.with_suffix(".ptx").read_text()
    version = re.compile(r"\.version (\S+)")
    if version.findall(text) == version.findall(kept):
        assert text == kept
    else:  # another NVRTC orders instructions another way
        assert re.findall(r"\.entry \w+\([^)]*\)", text) == re.findall(r"\.entry \w+\([^)]*\)", kept)


def test_every_kernel_file_belongs_to_a_workload() -> None:
    assert {path.stem for path in SOURCES} == {w.kernels for w in WORKLOADS.values() if w.kernels is not None}


@pytest.mark.parametrize("name", TWINS)
def test_the_twin_has_the_same_kernels(name: str) -> None:
    stem = WORKLOADS[name].kernels
    source, twin = build.HERE / f"{stem}.cu", build.HERE / f"{stem}.cl"
    assert re.findall(r"__kernel void (\w+)\(", twin.read_text()) == ENTRY.findall(source.read_text())


def test_ptx_without_its_hash_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.ptx"
    path.write_text(".version 8.8\n")
    with pytest.raises(ValueError, match="must open with"):
        build.recorded(path)
