"""Debian packages without dpkg: the reader, the pinned list, the private root's way to start a program."""

from __future__ import annotations

import io
import lzma
import os
import tarfile
from pathlib import Path

import pytest

from gpuvm.vmm.debian import Lock, Package, PrivateRoot, lock, members, unpack
from gpuvm.vmm.errors import PackageError


def tar_of(entries: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for entry, data in entries:
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def ar_member(name: str, data: bytes) -> bytes:
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
    return head + data + b"\n" * (len(data) % 2)


def info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = kind, link, mode
    return entry


def deb(path: Path, entries: list[tuple[tarfile.TarInfo, bytes]], suffix: str = ".xz") -> Path:
    data = tar_of(entries)
    data = lzma.compress(data) if suffix == ".xz" else data
    parts = ar_member("debian-binary", b"2.0\n") + ar_member("control.tar.xz", lzma.compress(tar_of([])))
    path.write_bytes(b"!<arch>\n" + parts + ar_member(f"data.tar{suffix}", data))
    return path


def test_members_come_with_names_and_contents(tmp_path: Path) -> None:
    entries = [
        (info("./usr", tarfile.DIRTYPE), b""),
        (info("./usr/hello"), b"odd"),
        (info("./l", tarfile.SYMTYPE, "x"), b""),
    ]
    for suffix in (".xz", ""):
        package = deb(tmp_path / "a.deb", entries, suffix)
        seen = [(member.name, data.read() if data else None) for member, data in members(package)]
        assert seen == [("usr", None), ("usr/hello", b"odd"), ("l", None)]


def test_unpacking_merges_usr_and_keeps_modes(tmp_path: Path) -> None:
    package = deb(
        tmp_path / "a.deb",
        [
            (info("./bin/tool", mode=0o4755), b"#!"),
            (info("./usr/bin/other", tarfile.LNKTYPE, "./bin/tool"), b""),
            (info("./lib64/ld.so", tarfile.SYMTYPE, "../x"), b""),
        ],
    )
    root = tmp_path / "root"
    unpack(package, root)
    assert (root / "usr/bin/tool").stat().st_mode & 0o7777 == 0o755  # not set-uid
    assert (root / "usr/bin/other").samefile(root / "usr/bin/tool")
    assert os.readlink(root / "usr/lib64/ld.so") == "../x"


@pytest.mark.parametrize("name", ["../escape", "./usr/../../escape", "/etc/passwd"])
def test_a_package_cannot_write_outside_its_root(tmp_path: Path, name: str) -> None:
    package = deb(tmp_path / "a.deb", [(info(name), b"x")])
    with pytest.raises(PackageError, match="own root only"):
        unpack(package, tmp_path / "root")


@pytest.mark.parametrize(
    "content", [b"", b"!<arch>\n", b"#!/bin/sh", b"!<arch>\n" + ar_member("data.tar.xz", b"no")]
)
def test_what_is_no_package_is_refused_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(content)
    with pytest.raises(PackageError, match=r"a\.deb must be a"):
        list(members(path))


def test_a_truncated_package_is_refused(tmp_path: Path) -> None:
    package = deb(tmp_path / "a.deb", [(info("./usr/big"), os.urandom(1 << 16))])
    package.write_bytes(package.read_bytes()[:-5000])
    with pytest.raises(PackageError, match="whole Debian package"):
        unpack(package, tmp_path / "root")


def test_a_lock_survives_its_file(tmp_path: Path) -> None:
    pins = Lock(
        "trixie", (Package("libc6", "2.41-12", "pool/main/g/glibc/libc6_2.41%2b1_amd64.deb", 7, "ab"),)
    )
    lock.write(tmp_path / "sub" / "lock.json", pins)
    assert lock.read(tmp_path / "sub" / "lock.json") == pins
    assert pins.size == 7
    assert pins.packages[0].file == "libc6_2.41+1_amd64.deb"


def test_a_lock_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock.json").write_text('{"suite": "trixie"}')
    with pytest.raises(PackageError, match=r"must be a list of pinned packages.*packages"):
        lock.read(tmp_path / "lock.json")


def test_a_program_of_a_private_root_starts_through_its_own_linker(tmp_path: Path) -> None:
    linker = tmp_path / "usr/lib64/ld-linux-x86-64.so.2"
    linker.parent.mkdir(parents=True)
    linker.touch()
    command = PrivateRoot(tmp_path).command("usr/bin/tool", libraries=("usr/lib/extra",))
    assert command[0] == str(linker)
    assert command[2].split(":")[0] == str(tmp_path / "usr/lib/extra")
    assert command[-1] == str(tmp_path / "usr/bin/tool")
