"""HW: tracking of a heart's inner and outer wall through ultrasound frames (Rodinia)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gpuvm.workloads.avi import read_frames
from gpuvm.workloads.base import Arrays, Clock, Inputs, Parameters, Source, Workload, WorkloadError
from gpuvm.workloads.program import Program, i32, pointer
from gpuvm.workloads.tracking import ALPHA, AREA, CONVOLUTION, TEMPLATE, UPDATE_PERIOD, follow
from gpuvm.workloads.verdict import Verdict
from gpuvm.workloads.video import RODINIA_INNER, RODINIA_OUTER, beating_heart

BLOCK = (32, 16)
_PADDED = AREA + 2 * TEMPLATE
SCRATCH = TEMPLATE * TEMPLATE + _PADDED * _PADDED + CONVOLUTION * _PADDED + 4 * CONVOLUTION * CONVOLUTION
"""Floats of scratch memory a point has; laid out in the kernel."""
TIE = 1e-3
"""Correlations this near are equal: the convolution sums 2601 products of up to 65025 in float, and its
rounding shifts a correlation by up to about 1e-4, so which of two such offsets is larger is not settled."""


class HeartWall(Workload):
    """HW: `inner` + `outer` wall points through `frames` frames; templates are renewed every tenth frame."""

    name = "HW"
    title = "heart wall tracking"
    kernels = "heartwall"
    sizes: ClassVar[Mapping[str, Parameters]] = {
        "paper": {"rows": 609, "columns": 590, "frames": 5, "inner": 20, "outer": 31},
        "small": {"rows": 230, "columns": 220, "frames": 3, "inner": 2, "outer": 3},
    }

    def validate(self, parameters: Parameters) -> None:
        if any(value != int(value) or value < 1 for value in parameters.values()):
            raise WorkloadError(
                f"all parameters of HW must be whole numbers of at least 1, not {dict(parameters)}"
            )
        if parameters["rows"] < 2 * AREA or parameters["columns"] < 2 * AREA:
            raise WorkloadError(
                f"the frames of HW must be at least {2 * AREA} pixels high and wide, not "
                f"{parameters['rows']} x {parameters['columns']}"
            )

    def generate(self, parameters: Parameters, rng: np.random.Generator) -> Arrays:
        frames, inner, outer = beating_heart(
            (int(parameters["rows"]), int(parameters["columns"])),
            int(parameters["frames"]),
            int(parameters["inner"]),
            int(parameters["outer"]),
            rng,
        )
        return {"frames": frames, "points": np.concatenate((inner, outer))}

    def read(self, data: Path, parameters: Parameters) -> Source | None:
        """Rodinia's `heartwall/test.avi` with the wall points that its program starts from, if it is there.

        It is not among the small files that travel with Rodinia's sources, so without it the video is made.
        """
        path = data / "heartwall" / "test.avi"
        if not path.exists():
            return None
        frames = read_frames(path, int(parameters["frames"]))
        inner, outer = RODINIA_INNER[: int(parameters["inner"])], RODINIA_OUTER[: int(parameters["outer"])]
        points = np.concatenate((inner, outer))
        count, rows, columns = frames.shape
        if points[:, 0].max() > rows or points[:, 1].max() > columns:
            raise WorkloadError(
                f"{path} must show the wall points of Rodinia's video, but is {columns} x {rows}"
            )
        arrays = {"frames": np.ascontiguousarray(frames), "points": points}
        found = {"rows": rows, "columns": columns, "frames": count, "inner": len(inner), "outer": len(outer)}
        return Source(arrays, f"heartwall/test.avi (first {count} frames)", found)

    def run(self, cu: Any, inputs: Inputs, clock: Clock) -> Arrays:
        # Frames go to the device column after column.
        frames = [np.ascontiguousarray(frame.T) for frame in inputs["frames"]]
        points = inputs["points"]
        count, total = len(points), len(frames)
        base = [np.ascontiguousarray(points[:, axis]) for axis in range(2)]
        tracks = [np.empty((count, total), np.int32) for _ in range(2)]
        with Program(cu, clock, self.kernels) as gpu:
            with clock.phase("init"):
                d_frame = gpu.allocate(frames[0].nbytes)
                d_base = [gpu.allocate(axis.nbytes) for axis in base]
                d_tracks = [gpu.allocate(axis.nbytes) for axis in tracks]
                d_templates = gpu.allocate(4 * count * TEMPLATE * TEMPLATE)
                d_scratch = gpu.allocate(4 * count * SCRATCH)
                change = gpu.symbol("change")
            with clock.phase("htod"):
                for address, axis in zip(d_base, base, strict=True):
                    gpu.upload(address, axis)
            sizes = [i32(inputs.count("rows")), i32(inputs.count("columns")), i32(total)]
            buffers = [pointer(address) for address in (*d_base, *d_tracks, d_templates, d_scratch)]
            for number, frame in enumerate(frames):
                update = number > 0 and number % UPDATE_PERIOD == 0
                record = struct.pack("=iif", number, update, ALPHA)
                with clock.phase("htod"):
                    gpu.upload(d_frame, frame)
                    gpu.upload(change, np.frombuffer(record, np.uint8))
                with clock.phase("launch"):
                    gpu.launch("heartwall", (count,), BLOCK, [pointer(d_frame), *sizes, *buffers])
                    gpu.synchronize()
            with clock.phase("dtoh"):
                for axis, address in zip(tracks, d_tracks, strict=True):
                    gpu.download(axis, address)
        positions = np.stack(tracks, axis=2)
        inner = inputs.count("inner")
        return {"inner": positions[:inner], "outer": positions[inner:]}

    def compute(self, inputs: Inputs) -> Arrays:
        track = follow(inputs["frames"], inputs["points"])
        inner = inputs.count("inner")
        return {"inner": track.positions[:inner], "outer": track.positions[inner:]}

    def check(self, inputs: Inputs, outputs: Arrays) -> Verdict:
        """Every position equals the reference's, or has a correlation within `TIE` of the best."""
        want = self.reference(inputs)
        for name, positions in want.items():
            got = outputs.get(name)
            if got is None or got.shape != positions.shape:
                shape = None if got is None else got.shape
                return Verdict(
                    False, f"{name} must have shape {positions.shape}, not {shape}", float("inf"), name
                )
        if all(np.array_equal(outputs[name], want[name]) for name in want):
            return Verdict(True)
        # Follow the given track: each step is judged from where the step before it ended.
        given = np.concatenate((outputs["inner"], outputs["outer"])).astype(np.int64)
        track = follow(inputs["frames"], inputs["points"], given)
        loss = np.where(np.isnan(track.loss), np.inf, track.loss)
        point, frame = (int(i) for i in np.unravel_index(np.argmax(loss), loss.shape))
        inner = inputs.count("inner")
        place = f"inner[{point}, {frame}]" if point < inner else f"outer[{point - inner}, {frame}]"
        deviation = float(loss[point, frame])
        if deviation <= TIE:
            return Verdict(True, "", deviation, place)
        best, found = track.positions[point, frame].tolist(), given[point, frame].tolist()
        return Verdict(
            False,
            f"{place} must be {best}, not {found} (correlation lower by {deviation:.3g})",
            deviation,
            place,
        )
