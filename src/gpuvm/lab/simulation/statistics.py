"""What a simulation comes to: integers that add up in any order, and figures made of them once at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

SUB_BITS = 8
"""A bucket is at most 2**-8 (0.4 %) of its value wide."""
BUCKETS = (64 - SUB_BITS) << SUB_BITS
_NONE: Ints = np.zeros(0, np.int64)


def buckets(values: Ints) -> Ints:
    """Bucket of each value: exact below 512, then 256 buckets to each power of two."""
    # The exponent of a value's upper bits is exact, which that of a large value is not.
    shift = np.maximum(np.frexp((values >> SUB_BITS).astype(np.float64))[1].astype(np.int64) - 1, 0)
    return np.asarray((shift << SUB_BITS) + (values >> shift))


def bucket_of(value: int) -> int:
    """The same of one value."""
    shift = max(value.bit_length() - 1 - SUB_BITS, 0)
    return (shift << SUB_BITS) + (value >> shift)


def bucket_value(bucket: int) -> int:
    """The largest value that falls into a bucket."""
    shift = max((bucket >> SUB_BITS) - 1, 0)
    return ((bucket - (shift << SUB_BITS) + 1) << shift) - 1


class Histogram:
    """Counts of non-negative integers by bucket; histograms add."""

    __slots__ = ("counts",)

    def __init__(self, counts: Ints | None = None) -> None:
        self.counts = np.zeros(BUCKETS, np.int64) if counts is None else counts

    def add(self, values: Sequence[int]) -> None:
        if len(values):
            self.counts += np.bincount(buckets(np.asarray(values, np.int64)), minlength=BUCKETS)

    def merge(self, places: Ints, counts: Ints) -> None:
        """Add `counts` at the buckets `places`, each named once."""
        self.counts[places] += counts

    def sparse(self) -> tuple[Ints, Ints]:
        """Buckets that are not empty, and their counts."""
        places = np.flatnonzero(self.counts)
        return places, self.counts[places]

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def percentile(self, percent: float) -> int:
        """Upper end of the bucket that holds the `percent`-th of 100 values in order; 0 if there is none."""
        total = self.total
        if total == 0:
            return 0
        return bucket_value(int(np.searchsorted(np.cumsum(self.counts), rank(total, percent))))


def jain(values: Floats) -> float:
    """Jain's index of fairness: 1 if all are equal, 1/n if one has everything."""
    squares = math.fsum((values * values).tolist())
    return math.fsum(values.tolist()) ** 2 / (len(values) * squares) if squares else 1.0


@dataclass(slots=True)
class GpuResult:
    """What one GPU's simulation counted. Arrays have one item for each machine, in order of `vms`; times are
    nanoseconds.

    Attributes
    ----------
    windows : ndarray of int, (windows, machines)
        GPU time of each machine in each whole window.
    entitled : ndarray of float
        Share that each machine ought to have.
    p50, p99, longest : ndarray of int
        Latency of commands from submission to completion.
    longest_wait : ndarray of int
        From submission to the first moment on the GPU.
    places, counts : ndarray of int
        The latencies of all machines as a sparse histogram.
    """

    gpu: int
    vms: Ints
    programs: Ints
    weights: Ints
    entitled: Floats
    launches: Ints
    used: Ints
    p50: Ints
    p99: Ints
    longest: Ints
    longest_wait: Ints
    windows: Ints
    places: Ints
    counts: Ints
    busy: int
    switches: int


class Latencies:
    """Latencies of one machine, kept as buckets once there are many."""

    __slots__ = ("_counts", "_places", "pending")
    FLUSH = 4096

    def __init__(self) -> None:
        self.pending: list[int] = []
        self._places = self._counts = _NONE

    def flush(self) -> None:
        """Put what came since into buckets."""
        if self.pending:
            places, counts = np.unique(buckets(np.array(self.pending, np.int64)), return_counts=True)
            self._places, inverse = np.unique(np.concatenate((self._places, places)), return_inverse=True)
            sums = np.zeros(len(self._places), np.int64)
            np.add.at(sums, inverse, np.concatenate((self._counts, counts)))
            self._counts = sums
            self.pending.clear()

    @property
    def kept(self) -> tuple[Ints, Ints]:
        """Buckets of what was flushed, and their counts."""
        return self._places, self._counts

    def percentiles(self, *percents: float) -> list[int]:
        """Upper ends of the buckets that hold them; 0 if there is nothing."""
        if not len(self._places):
            # Few values: sorted as they are.
            ordered = sorted(self.pending)
            if not ordered:
                return [0] * len(percents)
            return [bucket_value(bucket_of(ordered[rank(len(ordered), p) - 1])) for p in percents]
        self.flush()
        ranks = np.cumsum(self._counts)
        total = int(ranks[-1])
        return [bucket_value(int(self._places[np.searchsorted(ranks, rank(total, p))])) for p in percents]


def merged(latencies: Sequence[Latencies]) -> tuple[Ints, Ints]:
    """The latencies of several machines as one sparse histogram."""
    pending = np.array([value for each in latencies for value in each.pending], np.int64)
    places, counts = np.unique(buckets(pending), return_counts=True)
    kept = [each.kept for each in latencies if len(each.kept[0])]
    if not kept:
        return places, counts
    every, inverse = np.unique(np.concatenate([places, *(part[0] for part in kept)]), return_inverse=True)
    sums = np.zeros(len(every), np.int64)
    np.add.at(sums, inverse, np.concatenate([counts, *(part[1] for part in kept)]))
    return every, sums


def rank(count: int, percent: float) -> int:
    """Which of `count` values in order, from 1, is the `percent`-th of 100."""
    return max(math.ceil(count * percent / 100), 1)


SKIPPED_WINDOWS = 1
"""Windows at the start that share errors leave out: machines begin in the middle of their programs."""


def share_errors(result: GpuResult) -> Floats:
    """Relative error of each machine's share in each window: how far its part of all the time that machines
    used is from its part of what they are entitled to. Windows in which nothing ran are left out."""
    rows = result.windows[SKIPPED_WINDOWS:].astype(np.float64)
    totals = rows.sum(axis=1, keepdims=True)
    busy = totals.ravel() > 0
    wanted = result.entitled / math.fsum(result.entitled.tolist())
    return np.asarray(np.abs(rows[busy] / totals[busy] - wanted) / wanted)


def overall_errors(result: GpuResult) -> Floats:
    """The same over the whole run, with its sign: 0.1 is a tenth too much."""
    total = max(int(result.used.sum()), 1)
    wanted = result.entitled / math.fsum(result.entitled.tolist())
    return np.asarray(result.used / total / wanted - 1)


def summarize(results: Sequence[GpuResult], until: int, window: int) -> dict[str, Any]:
    """Figures of the whole fleet; the same whatever order the results come in."""
    results = sorted(results, key=lambda result: result.gpu)
    latency = Histogram()
    for result in results:
        latency.merge(result.places, result.counts)
    taken = [result for result in results if len(result.vms)]
    relative = np.concatenate([result.used / until / result.entitled for result in taken])
    per_window = [share_errors(result) for result in taken]
    overall = np.concatenate([overall_errors(result) for result in taken])
    errors = np.concatenate([each.ravel() for each in per_window])
    use = np.array([result.busy / until for result in results])
    launches = sum(int(result.launches.sum()) for result in results)
    jains = [
        jain(row / result.entitled) for result in taken for row in result.windows[SKIPPED_WINDOWS:] / window
    ]
    return {
        "launches": launches,
        "launches_per_s": launches / (until / 1e9),
        "preemptions": sum(result.switches for result in results),
        "jain": jain(relative),
        "jain_per_window": {"mean": mean(jains), "least": min(jains, default=None)},
        "share_error": {
            "whole_run_mean": mean(np.abs(overall).tolist()),
            "whole_run_worst": float(np.abs(overall).max()),
            "window_mean": mean(errors.tolist()),
            "window_p99": float(np.sort(errors)[int(0.99 * (len(errors) - 1))]) if len(errors) else None,
            "window_worst": float(errors.max()) if len(errors) else None,
        },
        "latency_ns": {
            "p50": latency.percentile(50),
            "p90": latency.percentile(90),
            "p99": latency.percentile(99),
            "p99.9": latency.percentile(99.9),
            "longest": max((int(result.longest.max()) for result in taken), default=0),
            "longest_wait": max((int(result.longest_wait.max()) for result in taken), default=0),
        },
        "gpu_use": {"mean": mean(use.tolist()), "least": float(use.min()), "most": float(use.max())},
    }


def mean(values: Sequence[float]) -> float | None:
    """The mean, exactly rounded and so the same in any order; None of nothing."""
    return math.fsum(values) / len(values) if values else None
