"""A trace survives its file, and a file that is none is told in a sentence."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuvm.lab.recorder import Recorder
from gpuvm.lab.runner import Job, run_together
from gpuvm.lab.system import MIB, System
from gpuvm.lab.traces import Entry, Stream, TraceError, read, write
from gpuvm.workloads import WORKLOADS

times = st.integers(0, (1 << 60) - 1)
entries = st.builds(Entry, st.integers(0, 127), st.sampled_from("LC"), *[times] * 6)
streams = st.builds(
    Stream, st.text(max_size=5), st.just("fv"), st.text(max_size=5), st.just("small"),
    st.lists(entries, max_size=4), times, times,
)  # fmt: skip


@settings(max_examples=30)
@given(st.lists(streams, max_size=3))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, made: list[Stream]) -> None:
    path = tmp_path_factory.mktemp("traces") / "trace"
    write(path, made, {"cpu": "test"})
    assert read(path) == made


HEAD = '{"format":"gpuvm-trace","version":1,"machine":{}}\n'
BEGIN = '{"stream":0,"vm":"a","mode":"fv","workload":"HS","size":"small"}\n'
END = '{"end":0,"tail_ns":1,"tail_wall_ns":1}\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "must be a trace that gpuvm bench --record wrote"),
        ("launch 5\n", "must be a trace that gpuvm bench --record wrote"),
        (HEAD.replace("1,", "2,"), "must be a gpuvm-trace of version 1, got gpuvm-trace 2"),
        (HEAD + BEGIN, "must end every stream"),
        (HEAD + "[0,1,\"L\",1,1,1,1,1,1]\n", "line 2: stream 0 must begin before its commands"),
        (HEAD + BEGIN + "[0,1,\"X\",1,1,1,1,1,1]\n" + END, "line 3: the kind of a command must be L or C"),
        (HEAD + BEGIN + "[0,1,\"L\",-1,1,1,1,1,1]\n" + END, "line 3: times and counts must not be negative"),
        (HEAD + BEGIN + "[0,1,\"L\"]\n" + END, "line 3: "),
        (HEAD + BEGIN + "nonsense\n" + END, "line 3: "),
    ],
)  # fmt: skip
def test_a_file_that_is_no_trace_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(TraceError, match=r"^[^\n]*$") as caught:
        read(path)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_recorded_program_has_each_of_its_launches_and_copies() -> None:
    workload = WORKLOADS["HS"]
    inputs = workload.inputs("small")
    with System("fv-naive", 2, vram=64 * MIB, memory=64 * MIB) as system:
        recorder = Recorder()
        recorder.attach(system)
        runs = run_together([Job(guest, workload, inputs) for guest in system.guests], recorder)
    assert all(run.verified for run in runs), [run.error for run in runs]
    assert [stream.vm for stream in recorder.streams] == ["vm0", "vm1"]
    for stream, run in zip(recorder.streams, runs, strict=True):
        launches = [entry for entry in stream.entries if entry.kind == "L"]
        assert len(launches) == run.counters["launches"]
        assert len(stream.entries) - len(launches) == run.counters["copies"]
        assert sum(entry.blocks for entry in launches) == run.counters["blocks"]
        # Every counted event is somewhere: in a command, before one, or at the end.
        total = sum(entry.gap_ns + entry.device_ns for entry in stream.entries) + stream.tail_ns
        assert total / 1e9 == pytest.approx(run.device_s, rel=0.02)
        wall = sum(entry.gap_wall_ns + entry.wall_ns for entry in stream.entries) + stream.tail_wall_ns
        assert wall / 1e9 == pytest.approx(run.wall_s, rel=0.25)
