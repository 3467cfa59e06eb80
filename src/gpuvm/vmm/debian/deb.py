"""Reader of .deb files: an `ar` archive whose data member is a compressed tar of the files.

The formats: deb(5), and the common `ar` format's 60-byte member headers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gpuvm.vmm.errors import PackageError

_MAGIC = b"!<arch>\n"
_HEADER = 60
_STREAMS = {"": "r|", ".gz": "r|gz", ".bz2": "r|bz2", ".xz": "r|xz", ".lzma": "r|xz"}


def _data_member(file: IO[bytes], path: Path) -> tuple[str, int]:
    """Find the data member: its suffix (".xz") and size; `file` then stands at its first byte."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise PackageError(f"{path} must be a Debian package (an ar archive), but begins otherwise")
    while len(header := file.read(_HEADER)) == _HEADER:
        name = header[:16].decode("ascii", "replace").rstrip(" ").rstrip("/")
        try:
            size = int(header[48:58])
        except ValueError:
            break
        if name.startswith("data.tar"):
            return name[len("data.tar") :], size
        file.seek(size + size % 2, os.SEEK_CUR)
    raise PackageError(f"{path} must be a Debian package, but has no data member")


@contextmanager
def _tar(path: Path) -> Iterator[tarfile.TarFile]:
    with path.open("rb") as file:
        suffix, _ = _data_member(file, path)
        if suffix in _STREAMS:
            # The stream ends with the compressed data; the padding byte behind it is not read.
            with tarfile.open(fileobj=file, mode=_STREAMS[suffix]) as tar:  # type: ignore[call-overload]
                yield tar
            return
    if shutil.which("dpkg-deb") is None:
        raise PackageError(f"{path} is compressed with {suffix[1:]}, which only dpkg-deb reads; install dpkg")
    command = ["dpkg-deb", "--fsys-tarfile", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
            yield tar
        process.stdout.close()


def members(path: Path) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Go through a package's files in their order.

    Yields
    ------
    tuple
        The member, its name without the leading "./", and its contents to read before the next one is asked
        for (None for what is not a regular file).

    Raises
    ------
    PackageError
        If it is no package, or broken.
    """
    try:
        with _tar(path) as tar:
            for member in tar:
                member.name = member.name.removeprefix("./").rstrip("/")
                if member.name in ("", "."):
                    continue
                yield member, tar.extractfile(member) if member.isreg() else None
    except (tarfile.TarError, EOFError, OSError) as error:
        raise PackageError(f"{path} must be a whole Debian package, but does not unpack: {error}") from None


def unpack(path: Path, root: Path) -> None:
    """Lay a package's files out under `root`, as the caller's own.

    What a merged /usr has as links (bin, lib, lib64, sbin) is merged here too. Device nodes are left out.

    Raises
    ------
    PackageError
        If it is no package, broken, or would write elsewhere.
    """
    try:
        for member, data in members(path):
            _place(member, data, path, root)
    except (tarfile.TarError, EOFError) as error:
        raise PackageError(f"{path} must be a whole Debian package, but does not unpack: {error}") from None


def _place(member: tarfile.TarInfo, data: IO[bytes] | None, path: Path, root: Path) -> None:
    target = root / _inside(member.name, path)
    if member.isdir():
        if not target.is_symlink():
            target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink() or target.exists():
        target.unlink()
    if member.issym():
        target.symlink_to(member.linkname)
    elif member.islnk():
        os.link(root / _inside(member.linkname.removeprefix("./"), path), target)
    elif data is not None:
        with target.open("wb") as out:
            shutil.copyfileobj(data, out, 1 << 20)
        target.chmod(member.mode & 0o755 | 0o600)


def _inside(name: str, path: Path) -> str:
    parts = name.split("/")
    if name.startswith("/") or ".." in parts:
        raise PackageError(f"{path} must hold files of its own root only, but names {name!r}")
    if parts[0] in ("bin", "sbin", "lib", "lib64") and len(parts) > 1:
        return f"usr/{name}"
    return name
