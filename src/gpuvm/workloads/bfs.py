"""BFS: level-synchronous breadth-first search of a random graph (Rodinia)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gpuvm.workloads import data as files
from gpuvm.workloads.base import Array, Arrays, Clock, Inputs, Parameters, Source, Workload, WorkloadError
from gpuvm.workloads.program import Program, blocks, i32, pointer
from gpuvm.workloads.verdict import Verdict, exact

BLOCK = 512
SOURCE = 0
"""Rodinia's program starts at node 0, whatever source the file names."""


class Bfs(Workload):
    """BFS: distance in edges of every node from node 0; -1 where there is no way."""

    name = "BFS"
    title = "breadth-first search"
    kernels = "bfs"
    sizes: ClassVar[Mapping[str, Parameters]] = {"paper": {"nodes": 1_000_000}, "small": {"nodes": 3000}}

    def validate(self, parameters: Parameters) -> None:
        nodes = parameters["nodes"]
        if nodes != int(nodes) or not 1 <= nodes <= 1 << 24:
            raise WorkloadError(f"nodes of BFS must be a whole number from 1 to {1 << 24}, not {nodes}")

    def generate(self, parameters: Parameters, rng: np.random.Generator) -> Arrays:
        """As Rodinia's generator: each node links to 2 to 4 others, both ways: degree 6 on average."""
        count = int(parameters["nodes"])
        near = np.repeat(np.arange(count, dtype=np.int64), rng.integers(2, 5, count))
        far = rng.integers(0, count, near.size, dtype=np.int64)
        links = np.concatenate((near << 32 | far, far << 32 | near))
        links.sort()
        degree = np.bincount(links >> 32, minlength=count)
        nodes = np.stack((np.cumsum(degree) - degree, degree), axis=1).astype(np.int32)
        return {"nodes": nodes, "edges": (links & 0xFFFFFFFF).astype(np.int32)}

    def read(self, data: Path, parameters: Parameters) -> Source | None:
        """The largest graph file there for the paper's size, the smallest for the small one."""
        folder = data / "bfs"
        found = sorted(folder.glob("graph*.txt"), key=lambda path: (path.stat().st_size, path.name))
        if not found:
            raise WorkloadError(f"{folder} must hold a graph*.txt for BFS, but does not")
        wanted = int(parameters["nodes"])
        path = found[-1] if wanted >= self.sizes["paper"]["nodes"] else found[0]
        nodes, edges, _ = files.graph(path)
        note = "" if len(nodes) == wanted else f" ({len(nodes)} nodes, where the size has {wanted})"
        return Source({"nodes": nodes, "edges": edges}, f"bfs/{path.name}{note}", {"nodes": len(nodes)})

    def run(self, cu: Any, inputs: Inputs, clock: Clock) -> Arrays:
        nodes, edges = inputs["nodes"], inputs["edges"]
        count = len(nodes)
        frontier = np.zeros(count, np.uint8)
        frontier[SOURCE] = 1
        cost = np.full(count, -1, np.int32)
        cost[SOURCE] = 0
        marked = np.zeros(count, np.uint8)
        again = np.ones(1, np.uint8)
        none = np.zeros(1, np.uint8)
        with Program(cu, clock, self.kernels) as gpu:
            with clock.phase("init"):
                d_nodes, d_cost = gpu.allocate(nodes.nbytes), gpu.allocate(cost.nbytes)
                d_edges = gpu.allocate(max(edges.nbytes, 4))
                d_frontier, d_marked, d_visited = (gpu.allocate(count) for _ in range(3))
                d_again = gpu.allocate(1)
            with clock.phase("htod"):
                gpu.upload(d_nodes, nodes)
                if edges.size:
                    gpu.upload(d_edges, edges)
                gpu.upload(d_frontier, frontier)
                gpu.upload(d_marked, marked)
                gpu.upload(d_visited, frontier)
                gpu.upload(d_cost, cost)
            graph = [pointer(d_nodes), pointer(d_edges)]
            masks = [pointer(d_frontier), pointer(d_marked), pointer(d_visited)]
            threads = min(count, BLOCK)
            grid, block = (blocks(count, threads),), (threads,)
            while again[0]:
                with clock.phase("htod"):
                    gpu.upload(d_again, none)
                with clock.phase("launch"):
                    gpu.launch("expand", grid, block, [*graph, *masks, pointer(d_cost), i32(count)])
                    gpu.launch("advance", grid, block, [*masks, pointer(d_again), i32(count)])
                    gpu.synchronize()
                with clock.phase("dtoh"):
                    gpu.download(again, d_again)
            with clock.phase("dtoh"):
                gpu.download(cost, d_cost)
        return {"cost": cost}

    def compute(self, inputs: Inputs) -> Arrays:
        nodes, edges = inputs["nodes"], inputs["edges"]
        cost = np.full(len(nodes), -1, np.int32)
        cost[SOURCE] = 0
        frontier = np.array([SOURCE], np.int64)
        level = 0
        while frontier.size:
            level += 1
            reached = edges[_ranges(nodes[frontier, 0], nodes[frontier, 1])]
            reached = reached[cost[reached] < 0]
            cost[reached] = level
            frontier = np.unique(reached) if reached.size < len(nodes) >> 4 else np.flatnonzero(cost == level)
        return {"cost": cost}

    def check(self, inputs: Inputs, outputs: Arrays) -> Verdict:
        return exact("cost", outputs, self.reference(inputs)["cost"])


def _ranges(first: Array, count: Array) -> Array:
    """The numbers first[i] to first[i] + count[i] - 1 for every i, one range after the other."""
    count = count.astype(np.int64)
    shift = np.repeat(first - (np.cumsum(count) - count), count)
    numbers: Array = np.arange(shift.size) + shift
    return numbers
