"""Readers of Rodinia's formats: what they accept, and what they say about everything else."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from gpuvm.workloads import WORKLOADS, WorkloadError, data
from gpuvm.workloads.avi import read_frames
from gpuvm.workloads.video import RODINIA_INNER, RODINIA_OUTER


def refusal(read: object, path: Path, content: bytes, *more: object) -> str:
    assert callable(read)
    path.write_bytes(content)
    with pytest.raises(WorkloadError) as error:
        read(path, *more)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_grid(tmp_path: Path) -> None:
    path = tmp_path / "temp"
    path.write_text("1.5\n2\n3e1\n-4\n")
    assert data.grid(path, 2).tolist() == [[1.5, 2.0], [30.0, -4.0]]
    assert "must hold 3 x 3 = 9 numbers, but holds 4" in refusal(data.grid, path, b"1\n2\n3\n4\n", 3)
    assert "numbers only" in refusal(data.grid, path, b"1 two 3", 2)


def test_matrix(tmp_path: Path) -> None:
    path = tmp_path / "2.dat"
    path.write_text("2\n1 2\n3 4\n")
    assert data.matrix(path).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    for content in (b"", b"2\n1 2 3\n", b"-1\n", b"nan\n1"):
        refusal(data.matrix, path, content)


RECORD = b"1992  3 22  0  7 ALBERTO    66.5 179.2  129  899\n"


def test_records(tmp_path: Path) -> None:
    path = tmp_path / "cane.db"
    path.write_bytes(RECORD + RECORD.replace(b" 66.5", b"  7.0"))
    positions = data.records(path)
    assert positions.tolist() == np.array([[66.5, 179.2], [7.0, 179.2]], np.float32).tolist()
    assert "49 bytes" in refusal(data.records, path, RECORD[:-3])
    assert "49 bytes" in refusal(data.records, path, b"")
    assert "line end" in refusal(data.records, path, RECORD[:-1] + b" ")
    assert "columns 27 to 31" in refusal(data.records, path, RECORD.replace(b" 66.5", b" here"))


def test_image(tmp_path: Path) -> None:
    path = tmp_path / "image.pgm"
    path.write_bytes(b"P2\n# a comment\n3 2\n255\n1 2 3\n4 5 255\n")
    assert data.image(path).tolist() == [[1, 2, 3], [4, 5, 255]]
    path.write_bytes(b"P5 2 2 255\n" + bytes([9, 8, 7, 200]))
    assert data.image(path).tolist() == [[9, 8], [7, 200]]
    path.write_bytes(b"P5 1 1 1023\n" + bytes([1, 2]))
    assert data.image(path).tolist() == [[258]]
    assert "gray map" in refusal(data.image, path, b"P6\n1 1\n255\nabc")
    assert "3 x 2 pixels, but holds 2" in refusal(data.image, path, b"P2\n3 2\n255\n1 2\n")
    assert "whole numbers" in refusal(data.image, path, b"P2\n1 1\n255\n1.5\n")


def test_graph(tmp_path: Path) -> None:
    path = tmp_path / "graph.txt"
    path.write_text("3\n0 2\n2 1\n3 0\n\n0\n\n3\n1 5\n2 6\n0 7\n")
    nodes, edges, source = data.graph(path)
    assert (nodes.tolist(), edges.tolist(), source) == ([[0, 2], [2, 1], [3, 0]], [1, 2, 0], 0)
    for content in (
        b"",
        b"3\n0 2\n",
        b"1\n0 1\n0\n1\n",  # an edge is missing
        b"1\n0 2\n0\n1\n0 1\n",  # a node has more edges than there are
        b"1\n0 1\n1\n1\n0 1\n",  # the source does not exist
        b"1\n0 1\n0\n1\n1 1\n",  # a target does not exist
        b"1\n-1 1\n0\n1\n0 1\n",
        b"1\n0 x\n0\n1\n0 1\n",
    ):
        refusal(data.graph, path, content)


def chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1)


def avi(images: list[np.ndarray], *, stride: int | None = None, bits: int = 8, compression: int = 0) -> bytes:
    rows, columns = images[0].shape
    stride = stride or columns
    info = struct.pack("<IiiHHIIiiII", 40, columns, rows, 1, bits, compression, 0, 0, 0, 256, 0)
    header = chunk(
        b"LIST", b"hdrl" + chunk(b"avih", bytes(56)) + chunk(b"LIST", b"strl" + chunk(b"strf", info))
    )
    frames = b""
    for image in images:
        padded = np.zeros((rows, stride), np.uint8)
        padded[:, :columns] = image[::-1]
        frames += chunk(b"00db", padded.tobytes())
    body = (
        b"AVI "
        + header
        + chunk(b"JUNK", b"xyz")
        + chunk(b"LIST", b"movi" + frames)
        + chunk(b"idx1", bytes(16))
    )
    return chunk(b"RIFF", body)


@pytest.mark.parametrize("stride", [5, 8])
def test_avi_frames_are_turned_the_right_way_up(stride: int, tmp_path: Path) -> None:
    images = [np.arange(15, dtype=np.uint8).reshape(3, 5) + 100 * number for number in range(3)]
    path = tmp_path / "test.avi"
    path.write_bytes(avi(images, stride=stride))
    frames = read_frames(path, 2)
    assert frames.dtype == np.float32
    assert frames.tolist() == [image.tolist() for image in images[:2]]


def test_what_is_no_plain_avi_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "test.avi"
    image = [np.zeros((4, 6), np.uint8)]
    assert "RIFF" in refusal(read_frames, path, b"not a video", 1)
    assert "24 bits" in refusal(read_frames, path, avi(image, bits=24), 1)
    assert "compression" in refusal(read_frames, path, avi(image, compression=0x44495658), 1)
    assert "at least one frame" in refusal(read_frames, path, avi(image)[:150], 1)
    assert "6 x 4 bytes, but one has 28" in refusal(read_frames, path, avi(image, stride=7), 1)


def test_heart_wall_reads_rodinias_video(tmp_path: Path) -> None:
    (tmp_path / "heartwall").mkdir()
    rng = np.random.default_rng(3)
    images = list(rng.integers(0, 256, (3, 609, 590), dtype=np.uint8))
    path = tmp_path / "heartwall" / "test.avi"
    path.write_bytes(avi(images))
    workload = WORKLOADS["HW"]
    inputs = workload.inputs("small", tmp_path)
    assert inputs.source == "heartwall/test.avi (first 3 frames)"
    assert inputs.parameters == {"rows": 609, "columns": 590, "frames": 3, "inner": 2, "outer": 3}
    assert inputs["points"].tolist() == [*RODINIA_INNER[:2].tolist(), *RODINIA_OUTER[:3].tolist()]
    assert inputs["frames"][2].tolist() == images[2].tolist()
    workload.forget()
    path.write_bytes(avi([images[0][:300, :300]]))
    with pytest.raises(WorkloadError, match="must show the wall points"):
        workload.inputs("small", tmp_path)
