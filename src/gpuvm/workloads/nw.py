"""NW: Needleman-Wunsch global alignment of two sequences (Rodinia)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gpuvm.workloads.base import Array, Arrays, Clock, Inputs, Parameters, Workload, WorkloadError
from gpuvm.workloads.program import Program, i32, pointer
from gpuvm.workloads.verdict import Verdict, exact, worst

TILE = 16

# The BLOSUM62 substitution matrix, rows and columns in the order A R N D C Q E G H I L K M F P S T W Y V B
# Z X *.
BLOSUM62 = np.array(
    [
        [int(score) for score in row.split()]
        for row in """
             4 -1 -2 -2  0 -1 -1  0 -2 -1 -1 -1 -1 -2 -1  1  0 -3 -2  0 -2 -1  0 -4
            -1  5  0 -2 -3  1  0 -2  0 -3 -2  2 -1 -3 -2 -1 -1 -3 -2 -3 -1  0 -1 -4
            -2  0  6  1 -3  0  0  0  1 -3 -3  0 -2 -3 -2  1  0 -4 -2 -3  3  0 -1 -4
            -2 -2  1  6 -3  0  2 -1 -1 -3 -4 -1 -3 -3 -1  0 -1 -4 -3 -3  4  1 -1 -4
             0 -3 -3 -3  9 -3 -4 -3 -3 -1 -1 -3 -1 -2 -3 -1 -1 -2 -2 -1 -3 -3 -2 -4
            -1  1  0  0 -3  5  2 -2  0 -3 -2  1  0 -3 -1  0 -1 -2 -1 -2  0  3 -1 -4
            -1  0  0  2 -4  2  5 -2  0 -3 -3  1 -2 -3 -1  0 -1 -3 -2 -2  1  4 -1 -4
             0 -2  0 -1 -3 -2 -2  6 -2 -4 -4 -2 -3 -3 -2  0 -2 -2 -3 -3 -1 -2 -1 -4
            -2  0  1 -1 -3  0  0 -2  8 -3 -3 -1 -2 -1 -2 -1 -2 -2  2 -3  0  0 -1 -4
            -1 -3 -3 -3 -1 -3 -3 -4 -3  4  2 -3  1  0 -3 -2 -1 -3 -1  3 -3 -3 -1 -4
            -1 -2 -3 -4 -1 -2 -3 -4 -3  2  4 -2  2  0 -3 -2 -1 -2 -1  1 -4 -3 -1 -4
            -1  2  0 -1 -3  1  1 -2 -1 -3 -2  5 -1 -3 -1  0 -1 -3 -2 -2  0  1 -1 -4
            -1 -1 -2 -3 -1  0 -2 -3 -2  1  2 -1  5  0 -2 -1 -1 -1 -1  1 -3 -1 -1 -4
            -2 -3 -3 -3 -2 -3 -3 -3 -1  0  0 -3  0  6 -4 -2 -2  1  3 -1 -3 -3 -1 -4
            -1 -2 -2 -1 -3 -1 -1 -2 -2 -3 -3 -1 -2 -4  7 -1 -1 -4 -3 -2 -2 -1 -2 -4
             1 -1  1  0 -1  0  0  0 -1 -2 -2  0 -1 -2 -1  4  1 -3 -2 -2  0  0  0 -4
             0 -1  0 -1 -1 -1 -1 -2 -2 -1 -1 -1 -1 -2 -1  1  5 -2 -2  0 -1 -1  0 -4
            -3 -3 -4 -4 -2 -2 -3 -2 -2 -3 -2 -3 -1  1 -4 -3 -2 11  2 -3 -4 -3 -2 -4
            -2 -2 -2 -3 -2 -1 -2 -3  2 -1 -1 -2 -1  3 -3 -2 -2  2  7 -1 -3 -2 -1 -4
             0 -3 -3 -3 -1 -2 -2 -3 -3  3  1 -2  1 -1 -2 -2  0 -3 -1  4 -3 -2 -1 -4
            -2 -1  3  4 -3  0  1 -1  0 -3 -4  0 -3 -3 -2  0 -1 -4 -3 -3  4  1 -1 -4
            -1  0  0  1 -3  3  4 -2  0 -3 -3  1 -1 -3 -1  0 -1 -3 -2 -2  1  4 -1 -4
             0 -1 -1 -1 -2 -1 -1 -1 -1 -1 -1 -1 -1 -1 -2  0  0 -2 -1 -1 -1 -1 -1 -4
            -4 -4 -4 -4 -4 -4 -4 -4 -4 -4 -4 -4 -4 -4 -4 -4 -4 -4 -4 -4 -4 -4 -4  1
        """.strip().splitlines()
    ],
    dtype=np.int32,
)


class NeedlemanWunsch(Workload):
    """NW: scores of all prefixes of two sequences of length n on the device, the trace on the host."""

    name = "NW"
    title = "Needleman-Wunsch alignment"
    kernels = "nw"
    sizes: ClassVar[Mapping[str, Parameters]] = {
        "paper": {"n": 2048, "penalty": 10},
        "small": {"n": 96, "penalty": 10},
    }

    def validate(self, parameters: Parameters) -> None:
        n, penalty = parameters["n"], parameters["penalty"]
        if n != int(n) or not TILE <= n <= 16384 or n % TILE:
            raise WorkloadError(f"n of NW must be a multiple of {TILE} up to 16384, not {n}")
        if penalty != int(penalty) or not 0 <= penalty <= 1000:
            raise WorkloadError(f"penalty of NW must be a whole number from 0 to 1000, not {penalty}")

    def generate(self, parameters: Parameters, rng: np.random.Generator) -> Arrays:
        """Two sequences of residues 1 to 10, the second a mutated copy, so that the alignment has turns."""
        n = int(parameters["n"])
        first = rng.integers(1, 11, n)
        kept = first[rng.random(n) < 0.9]
        second = np.concatenate((kept, rng.integers(1, 11, n)))[:n]
        mutated = rng.random(n) < 0.2
        second[mutated] = rng.integers(1, 11, int(mutated.sum()))
        similarity = np.zeros((n + 1, n + 1), np.int32)
        similarity[1:, 1:] = BLOSUM62[np.ix_(first, second)]
        return {"similarity": similarity}

    def run(self, cu: Any, inputs: Inputs, clock: Clock) -> Arrays:
        similarity = inputs["similarity"]
        n, penalty = inputs.count("n"), inputs.count("penalty")
        tiles = n // TILE
        score = _borders(n, penalty)
        with Program(cu, clock, self.kernels) as gpu:
            with clock.phase("init"):
                d_similarity, d_score = gpu.allocate(similarity.nbytes), gpu.allocate(score.nbytes)
            with clock.phase("htod"):
                gpu.upload(d_similarity, similarity)
                gpu.upload(d_score, score)
            with clock.phase("launch"):
                common = [pointer(d_similarity), pointer(d_score), i32(n + 1), i32(penalty)]
                for diagonal in range(1, tiles + 1):
                    gpu.launch("upper", (diagonal,), (TILE,), [*common, i32(diagonal)])
                for diagonal in range(tiles - 1, 0, -1):
                    gpu.launch("lower", (diagonal,), (TILE,), [*common, i32(diagonal), i32(tiles)])
                gpu.synchronize()
            with clock.phase("dtoh"):
                gpu.download(score, d_score)
        return {"score": score, "path": trace(score, similarity, penalty)}

    def compute(self, inputs: Inputs) -> Arrays:
        """Row by row: in a row, gaps from the left are a running maximum of score + penalty * column."""
        similarity = inputs["similarity"]
        n, penalty = inputs.count("n"), inputs.count("penalty")
        score = _borders(n, penalty)
        slope = penalty * np.arange(n + 1, dtype=np.int32)
        row = np.empty(n + 1, np.int32)
        for i in range(1, n + 1):
            row[0] = score[i, 0]
            np.maximum(score[i - 1, :-1] + similarity[i, 1:], score[i - 1, 1:] - penalty, out=row[1:])
            score[i] = np.maximum.accumulate(row + slope) - slope
        return {"score": score, "path": trace(score, similarity, penalty)}

    def check(self, inputs: Inputs, outputs: Arrays) -> Verdict:
        want = self.reference(inputs)
        scores = exact("score", outputs, want["score"])
        return worst(scores, exact("path", outputs, want["path"])) if scores else scores


def _borders(n: int, penalty: int) -> Array:
    """The score matrix before the first step: gaps only, in row 0 and column 0."""
    score = np.zeros((n + 1, n + 1), np.int32)
    score[0] = score[:, 0] = -penalty * np.arange(n + 1)
    return score


def trace(score: Array, similarity: Array, penalty: int) -> Array:
    """The cells of the best alignment, last to first, as flat indices; ties go diagonal, left, up.

    Stops where no step explains the score, which only a wrong score matrix makes happen.
    """
    width = score.shape[1]
    # Single elements: a memoryview is several times faster than an array.
    flat, match = score.reshape(-1).data, similarity.reshape(-1).data
    at = score.size - 1
    path = [at]
    while at:
        value = flat[at]
        row, column = divmod(at, width)
        if row and column and value == flat[at - width - 1] + match[at]:
            at -= width + 1
        elif column and value == flat[at - 1] - penalty:
            at -= 1
        elif row and value == flat[at - width] - penalty:
            at -= width
        else:
            break
        path.append(at)
    return np.array(path, np.int64)
