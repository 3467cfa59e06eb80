"""An executor or a crew that is dropped without being closed takes its worker threads with it."""

from __future__ import annotations

import gc
import threading

from gpuvm.jit.crew import Crew
from gpuvm.jit.executor import Executor


def _workers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith(("gpuvm-worker-", "gpuvm-crew-"))}


def test_workers_end_with_an_executor_that_nobody_closed() -> None:
    before = _workers()
    executor = Executor(3)
    executor._get_pool()
    mine = _workers() - before
    assert len(mine) == 2
    del executor
    gc.collect()
    for worker in mine:
        worker.join(10)
        assert not worker.is_alive()


def test_workers_end_with_a_crew_that_nobody_closed() -> None:
    before = _workers()
    crew = Crew(2)
    mine = _workers() - before
    assert len(mine) == 2
    del crew
    gc.collect()
    for worker in mine:
        worker.join(10)
        assert not worker.is_alive()


def test_closing_twice_and_dropping_afterwards_is_harmless() -> None:
    executor = Executor(2)
    executor._get_pool()
    executor.close()
    executor.close()
    del executor
    gc.collect()
