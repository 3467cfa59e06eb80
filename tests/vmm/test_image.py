"""The guest image's parts: the archive that the kernel unpacks, the modules in their order, the pinned list."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuvm.vmm.errors import ImageError
from gpuvm.vmm.image import builder, recipe
from gpuvm.vmm.image.cpio import Cpio
from gpuvm.vmm.image.modules import Module, canonical, closure, dependency_file

names = st.text("abcdefgh", min_size=1, max_size=5)
paths = st.lists(names, min_size=1, max_size=3).map("/".join)


def read_newc(data: bytes) -> dict[str, tuple[int, bytes]]:
    """An independent reader of the format: mode and contents by name."""
    found, at = {}, 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        at += (110 + name_size + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, data[at : at + size])
        at += (size + 3) & ~3


def bytes_of(root: Cpio) -> bytes:
    out = io.BytesIO()
    root.write(out)
    return out.getvalue()


@given(st.dictionaries(paths.map(lambda path: f"top/{path}.txt"), st.binary(max_size=40), max_size=6))
def test_what_goes_into_the_archive_comes_out(files: dict[str, bytes]) -> None:
    root = Cpio()
    for path, data in files.items():
        root.file(path, data)
    seen = read_newc(bytes_of(root))
    assert {path: data for path, (mode, data) in seen.items() if mode >> 12 == 8} == files
    assert all(parent in seen for path in files for parent in [path.rpartition("/")[0]])


def test_the_archive_does_not_depend_on_the_order() -> None:
    first, second = Cpio(), Cpio()
    first.file("a/b", b"1", 0o755)
    first.link("c", "a/b")
    second.link("/c", "a/b")
    second.file("/a/b", b"1", 0o755)
    assert bytes_of(first) == bytes_of(second)


def a_module(name: str, *needs: str) -> Module:
    return Module(name, f"kernel/drivers/{name}.ko", b"", needs)


def test_modules_are_listed_with_all_that_they_need_the_first_to_load_last() -> None:
    order = [
        a_module("wmi"),
        a_module("video", "wmi"),
        a_module("mxm_wmi", "wmi"),
        a_module("gpu", "video", "mxm_wmi"),
    ]
    assert dependency_file(order).splitlines()[-1] == (
        "kernel/drivers/gpu.ko: kernel/drivers/mxm_wmi.ko kernel/drivers/video.ko kernel/drivers/wmi.ko"
    )


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(ImageError, match="must hold the module nouveau"):
        closure(["nouveau"], {}, lambda path: b"")


@pytest.mark.parametrize(("spelling", "name"), [("kernel/a/mxm-wmi.ko.xz", "mxm_wmi"), ("drm", "drm")])
def test_modules_have_one_name(spelling: str, name: str) -> None:
    assert canonical(spelling) == name


def test_the_shipped_list_pins_what_the_recipe_wants() -> None:
    pins = builder.lock.read(Path(builder.__file__).with_name(recipe.LOCK))
    assert pins.suite == recipe.SUITE
    assert pins.named(recipe.KERNEL).size > 50 << 20
    assert all(recipe.wanted(package.name) and len(package.sha256) == 64 for package in pins.packages)
    assert all(package.path.startswith("pool/main/") for package in pins.packages)


@pytest.mark.parametrize(
    ("package", "path", "place"),
    [
        ("libc6", "lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/libc.so.6"),
        ("libc6", "usr/lib/x86_64-linux-gnu/libnss_files.so.2", None),
        ("busybox-static", "bin/busybox", "usr/bin/busybox"),
        ("libpython3.13-stdlib", "usr/share/doc/x", None),
        ("libpython3.13-stdlib", "usr/lib/python3.13/idlelib/run.py", None),
        ("libpython3.13-stdlib", "usr/lib/python3.13/socket.py", "usr/lib/python3.13/socket.py"),
    ],
)
def test_where_files_go(package: str, path: str, place: str | None) -> None:
    assert recipe.place(package, path) == place


def test_every_command_of_the_guest_is_a_program_that_is_shipped() -> None:
    for module in recipe.COMMANDS.values():
        assert f"{module}.py" in dict(builder._programs())


def test_guest_programs_need_nothing_of_gpuvm(tmp_path: Path) -> None:
    """They run where there is no gpuvm: the guest has their folder only."""
    for name, data in builder._programs():
        (tmp_path / "guestprogs").mkdir(exist_ok=True)
        (tmp_path / "guestprogs" / name).write_bytes(data)
    modules = ", ".join(f"guestprogs.{name.removesuffix('.py')}" for name, _ in builder._programs())
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import {modules}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
