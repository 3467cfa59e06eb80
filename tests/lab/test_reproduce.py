"""The reproduction: sweeps that go on where they stopped, comparisons that tell causes, files for each
experiment and a page that needs nothing beside it."""

import csv
import json
from contextlib import nullcontext
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from gpuvm.lab.fairness import FairnessResult, GuestResult
from gpuvm.lab.reproduce import fairness, properties, run, scaling, times
from gpuvm.lab.reproduce.context import Context
from gpuvm.lab.reproduce.published import beyond, cause, published
from gpuvm.lab.reproduce.report import Table, geometric, shown
from gpuvm.lab.reproduce.sweep import Choice, run_sweep
from gpuvm.workloads import WORKLOADS

MODES = ("native", "fv-naive", "pv-multicall")
CHOICE = Choice(MODES, ("NOP", "HS"), "small")


class Log:
    """What a context is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.choices: list[Choice] = []

    def context(self, folder: Path, choice: Choice = CHOICE, force: bool = False) -> Context:
        return Context(folder, choice, self.watch, self.lines.append, force)

    def watch(self, choice: Choice) -> Any:
        self.choices.append(choice)
        return nullcontext()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    names = ["times", "phases", "accesses", "boot", "written"]
    run.carry_out(names, Log().context(folder))
    return folder


def test_each_experiment_leaves_table_figure_and_results(results: Path) -> None:
    for name in ("times", "phases", "accesses", "boot", "written"):
        document = json.loads((results / f"{name}.json").read_text())
        assert document["experiment"] == name
        assert document["choice"]["modes"] == list(MODES)
        rows = list(csv.reader((results / f"{name}.csv").open()))
        assert len(rows) > 1
        assert all(len(row) == len(rows[0]) for row in rows)
        assert (results / f"{name}.svg").read_text().startswith("<svg")


def test_what_was_measured_is_not_measured_again(results: Path) -> None:
    log = Log()
    run.carry_out(["times", "boot"], log.context(results))
    assert log.choices == []
    assert all("measured before" in line for line in log.lines)
    other = Choice((*MODES, "passthrough"), ("NOP", "HS"), "small")
    run.carry_out(["phases"], log.context(results, other))
    assert [choice.workloads for choice in log.choices] == [("NOP", "HS")]  # a mode is new


def test_a_sweep_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path, log = tmp_path / "runs.jsonl", Log()
    first = Choice(("native",), ("NOP",), "small")
    run_sweep(path, first, log.watch)
    with path.open("a") as file:
        file.write('{"mode": "native", "workl')  # cut off
    both = Choice(("native",), ("NOP", "LUD"), "small")
    sweep = run_sweep(path, both, log.watch)
    assert [choice.workloads for choice in log.choices] == [("NOP",), ("LUD",)]
    assert sweep.counters("native", "LUD")["launches"] > 0
    assert sweep.verified("native") == (2, 2)
    run_sweep(path, Choice(("native",), ("NOP",), "small", repeat=2), log.watch)
    assert len(log.choices) == 3  # another kind of sweep


class Inventory(HTMLParser):
    """What a page loads from elsewhere, and what stands on it."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.tags: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and value and not value.startswith("#"):
                self.outside.append(value)


def test_the_page_has_everything_inside(results: Path) -> None:
    text = (results / "index.html").read_text()
    page = Inventory()
    page.feed(text)
    assert page.outside == []
    assert page.tags["section"] == 5
    assert page.tags["svg"] >= 5
    assert "659,664" in text  # a published figure beside ours


def test_the_document_explains_the_two_published_means(results: Path) -> None:
    notes = json.loads((results / "times.json").read_text())["notes"]
    (why,) = [note for note in notes if note.startswith("Why 36x and 232x")]
    assert "make 36x" in why
    assert "make 232x" in why


def test_the_native_time_that_makes_a_mean_is_found() -> None:
    added, own = [1.0, 2.0], [0.01, 0.02]
    extra = times._native_overhead(added, own, 36)
    assert sum(1 + a / (t + extra) for a, t in zip(added, own, strict=True)) / 2 == pytest.approx(36)
    assert times._native_overhead(added, own, 1000) == pytest.approx(0, abs=1e-9)


def test_a_figure_far_from_the_published_one_names_its_counts() -> None:
    assert cause({"traps_bar3_write": 1000, "launches": 10, "unpriced": 5}, 1).startswith(
        "100% traps_bar3_write (1,000 x 14.2 us)"
    )
    assert cause({}) == ""
    assert [beyond(1, 2), beyond(1, 2.1), beyond(2.1, 1)] == [False, True, True]
    data = {
        "causes": {"fv-naive": "THE CAUSE", "fv-lazy": "", "pv-naive": ""},
        "modes": ["native", "fv-naive"],
    }
    table = times._averages(data, {"fv-naive": [5.0, 5.0]})
    by_name = {row[0]: row for row in table.rows}
    assert by_name["fv-naive: mean slowdown"][3] == "more than 2x apart: THE CAUSE"
    table = times._averages(data, {"fv-naive": [100.0, 100.0]})
    assert {row[0]: row for row in table.rows}["fv-naive: mean slowdown"][3] == "within 2x"


def test_published_figures_name_known_workloads_and_their_source() -> None:
    for name, group in published().items():
        assert group["source"], name
    for group in ("native_ms", "written_bytes"):
        assert set(published()[group]) - {"source"} <= set(WORKLOADS)


def test_contexts_and_machines_run_at_once_and_are_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "COUNTS", (1, 2))
    data = scaling.measure_scaling(Log().context(tmp_path, Choice(("native", "fv"), ("HS",), "small")))
    assert list(data["contexts"]) == ["native/HS", "fv/HS"]
    assert list(data["machines"]) == ["fv/HS"]
    for results in (*data["contexts"].values(), *data["machines"].values()):
        assert [each["errors"] for each in results] == [[], []]
        assert all(each["verified"] for each in results)
        assert results[1]["device_s"] == pytest.approx(2 * results[0]["device_s"], rel=0.3)
    report = scaling.report_scaling(data)
    assert report.notes[0] == "6 of 6 runs verified."


def test_the_five_properties_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(properties, "machines_at_once", lambda mode: 7)
    modes = ("native", "passthrough", "fv", "pv-drm")
    data = properties.measure_properties(Log().context(tmp_path, Choice(modes, ("NOP",), "small")))
    assert [data[mode]["verified"] for mode in modes] == [[1, 1]] * 4
    assert data["native"]["wall"] == data["native"]["device"] == 1
    assert data["passthrough"]["trapped"] == data["native"]["trapped"] == 0 < data["fv"]["trapped"]
    assert [data[mode]["driver_lines"] > 0 for mode in modes] == [False, False, False, True]
    assert 0 == data["native"]["hypervisor_lines"] < data["passthrough"]["hypervisor_lines"]
    assert data["passthrough"]["hypervisor_lines"] < data["fv"]["hypervisor_lines"]
    assert data["functions"] > 400
    assert len(properties.report_properties(data).tables[0].rows) == 4


def test_fairness_stands_beside_the_published_shares() -> None:
    def result(scheduler: str, short: float, error: float) -> dict[str, Any]:
        guests = [
            GuestResult(kind, 1, share, 100.0, 200.0, 1e-3, 2e-3, 3e-3)
            for kind, share in (("short", short), ("long", 1 - short))
        ]
        return asdict(
            FairnessResult(
                scheduler, "fv", "2 machines, closed", 1, 0.5, error, error, error, 0.9, 0.99, 1.0, 3, guests
            )
        )

    report = fairness.report_fairness(
        {"mode": "fv", "seconds": 1, "results": [result("fifo", 0.13, 0.74), result("fair", 0.499, 0.004)]}
    )
    beside = {row[0]: row for row in next(t for t in report.tables if t.name == "published").rows}
    assert list(beside["fifo"][:3]) == ["fifo", 0.13, 0.144]
    assert beside["fair"][2] is None
    assert report.notes[0].startswith("fair: share error at most 0.40% in any window, Jain at least 0.9000")


def test_pass_through_has_one_machine_and_sharing_as_many_as_fit() -> None:
    card = 128 << 20
    assert (
        properties.machines_at_once("native", card) == properties.machines_at_once("passthrough", card) == 1
    )
    assert properties.machines_at_once("fv", card) == (128 - 24) // 16


def test_tables_and_means() -> None:
    assert Table("t", ["a", "b"], [["x, y", None], [1, 2.5]]).csv() == 'a,b\n"x, y",\n1,2.5\n'
    assert geometric([1, 100]) == pytest.approx(10)
    assert [shown(cell) for cell in (None, "x", 1234567, 0.12345, 12.345, 1234.5, 0)] == [
        "–", "x", "1,234,567", "0.123", "12.3", "1,234", "0",
    ]  # fmt: skip
