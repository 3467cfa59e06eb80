"""Translations on disk: found again by another executor, ignored when broken, bounded."""

from __future__ import annotations

from pathlib import Path

from rig import Rig

from gpuvm.jit.cache import DiskCache, Entry
from gpuvm.jit.executor import Executor

CODE = "S2R R0, SR_TID.X; SHL R1, R0, 0x2; IADD R1, R1, c[0x0][0x20]; IADD R2, R0, {}; ST [R1], R2; EXIT;"


def run(directory: Path, add: int) -> int:
    """Files in the cache after a launch that must work."""
    with Executor(1, directory) as executor:
        rig = Rig(executor)
        base = rig.put(0, bytes(128))
        outcome = rig.launch(CODE.format(hex(add)), parameters=base.to_bytes(4, "little"))
        assert outcome.error is None
        assert list(rig.words(0, 32)) == [n + add for n in range(32)]
        rig.close()
    return len([path for path in directory.glob("*/*") if path.is_file()])


def test_a_second_executor_finds_what_the_first_made(tmp_path: Path) -> None:
    assert run(tmp_path, 5) == 1
    assert run(tmp_path, 5) == 1


def test_kernels_that_begin_alike_live_side_by_side(tmp_path: Path) -> None:
    assert run(tmp_path, 5) == 1
    assert run(tmp_path, 6) == 2
    assert run(tmp_path, 5) == 2


def test_a_broken_entry_is_made_anew(tmp_path: Path) -> None:
    run(tmp_path, 5)
    (path,) = (path for path in tmp_path.glob("*/*") if path.is_file())
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(bytes(raw))
    assert run(tmp_path, 5) == 1
    path.write_bytes(b"")
    assert run(tmp_path, 5) == 1


def test_a_directory_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    assert run(blocked, 7) == 0


def test_the_oldest_go_first(tmp_path: Path) -> None:
    import os

    cache = DiskCache(tmp_path, limit=3000)
    for n in range(6):
        cache.put(f"{n:02x}" * 20, Entry({"n": n}, [bytes(800)]))
        for path in tmp_path.glob(f"{n:02x}/*"):
            os.utime(path, (n, n))
    cache.trim()
    left = sorted(entry.facts["n"] for n in range(6) for entry in cache.find(f"{n:02x}" * 20))
    assert left == [3, 4, 5]
