"""What the daemon is told: a file, flags over it, and one sentence for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuvm.hypervisor import MODES
from gpuvm.schedulers import NAMES
from gpuvm.vmm.daemon import ConfigError, build, default_control, load
from gpuvm.vmm.sizes import format_size, parse_size

FULL = """
scheduler = "credit"
control = "/run/gpuvm/control.sock"
drain = 1

[gpu]
profile = "small"
vram = "1536M"
watchdog = 2.5
reserve = 67108864

[[vm]]
name = "alice"
socket = "/run/gpuvm/a"
mode = "fv-naive"
vram = "256M"
channels = 12
weight = 3
cap = 40
write_multiple = false
sealed = false

[[vm]]
name = "bob"
"""


def test_a_file_says_everything(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(FULL)
    config = load(tmp_path / "c.toml")
    assert (config.scheduler, config.control, config.drain) == ("credit", "/run/gpuvm/control.sock", 1)
    gpu = config.gpu
    assert (gpu.profile, gpu.vram, gpu.watchdog, gpu.reserve) == ("small", 1536 << 20, 2.5, 64 << 20)
    alice, bob = config.vm
    assert (alice.name, alice.socket, alice.mode, alice.vram) == (
        "alice",
        "/run/gpuvm/a",
        "fv-naive",
        256 << 20,
    )
    assert (alice.channels, alice.weight, alice.cap) == (12, 3, 40)
    assert (alice.write_multiple, alice.sealed) == (False, False)
    assert (bob.socket, bob.weight, bob.cap) == ("/run/gpuvm/bob.sock", 1, 0)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(FULL)
    changes = {
        "scheduler": "fifo",
        "gpu": {"vram": "2G"},
        "vm": [{"name": "bob", "weight": 9}, {"name": "carol", "vram": "1M"}],
    }
    config = load(tmp_path / "c.toml", changes)
    assert (config.scheduler, config.gpu.vram, config.gpu.profile) == ("fifo", 2 << 30, "small")
    assert [(vm.name, vm.weight) for vm in config.vm] == [("alice", 3), ("bob", 9), ("carol", 1)]


def test_without_a_file_there_is_a_place_for_the_socket() -> None:
    assert load(None).control == default_control()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scheduler", NAMES)
def test_every_mode_and_scheduler_that_there_is(mode: str, scheduler: str) -> None:
    config = build({"scheduler": scheduler, "vm": [{"name": "a", "mode": mode}]})
    assert (config.scheduler, config.vm[0].mode) == (scheduler, mode)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('scheduler = "best"', "scheduler must be one of direct, fifo, credit"),
        ("scheduler = 3", "scheduler must be a text, got 3"),
        ("colour = 1", "colour must be one of the keys gpu, scheduler, control, drain, vm"),
        ("gpu = 3", "gpu must be a table, got 3"),
        ('[gpu]\nvram = "lots"', "gpu.vram must be a size such as 256M or 1G, got 'lots'"),
        ("[gpu]\nvram = -1", "gpu.vram must be a whole number >= 1, got -1"),
        ("[gpu]\nvram = 1000", "gpu.vram must be whole MiB, got 1000 bytes"),
        ('[gpu]\nprofile = "voodoo"', "gpu.profile must be one of .*small"),
        ("[gpu]\nwatchdog = true", "gpu.watchdog must be a number, got True"),
        ("[gpu]\nfan = 1", "gpu.fan must be one of the keys profile, vram"),
        ("drain = 61", "drain must be a number <= 60.*, got 61"),
        ("[vm]\nname = 'a'", "vm must be a list of tables, got {'name': 'a'}"),
        ("[[vm]]", r"vm\[0\].name must be given, and is not there"),
        ("[[vm]]\nname = '../a'", "vm.name must be 1 to 32 letters, .*, got '../a'"),
        ("[[vm]]\nname = 'control'", "not be 'control', got 'control'"),
        ("[[vm]]\nname = 'a'\n[[vm]]\nname = 'a'", "vm.name must be given once, got 'a' twice"),
        ("[[vm]]\nname = 'a'\nmode = 'xv'", "mode of VM 'a' must be one of passthrough, fv-naive"),
        ("[[vm]]\nname = 'a'\nchannels = 129", r"vm\[0\].channels must be a whole number <= 128, got 129"),
        ("[[vm]]\nname = 'a'\nchannels = 'x'", r"vm\[0\].channels must be a whole number, got 'x'"),
        ("[[vm]]\nname = 'a'\ncap = 101", r"vm\[0\].cap must be a number <= 100.*, got 101"),
        ("[[vm]]\nname = 'a'\nvram = '1x'", r"vm\[0\].vram must be a size such as .*, got '1x'"),
        ("[[vm]]\nname = 'a'\nsocket = 's'\n[[vm]]\nname = 'b'\nsocket = 's'", "socket of its own, got s"),
        (f"[[vm]]\nname = 'a'\nsocket = '{'x' * 108}'", "socket of VM 'a' must be a path of at most 107"),
        ("name = ", "must be TOML: Invalid value"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_key(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match=sentence) as caught:
        load(tmp_path / "c.toml")
    assert "\n" not in str(caught.value)
    assert "msgspec" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a file that can be read: No such file"):
        load(tmp_path / "none")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["name", "vram", "gpu", "vm", "cap", "mode"]), inner, max_size=3)
    ),
    max_leaves=3,
)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from(["gpu", "vm", "scheduler", "drain", "control", "x"]), JSON))
def test_anything_else_is_refused_in_words(raw: dict[str, object]) -> None:
    try:
        build(raw)
    except ConfigError as error:
        assert len(str(error)) > 10  # noqa: PT017


@given(st.integers(1, 1 << 44))
def test_a_size_is_read_as_it_is_written(size: int) -> None:
    assert parse_size(str(size)) == size
    assert parse_size(f"{size}k") == size << 10
    text = format_size(size << 20)
    if "." not in text:
        assert parse_size(text) == size << 20
