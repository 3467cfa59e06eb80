"""Private roots: programs of a newer Debian, unpacked with all libraries that they need beside the machine's own.

No package's scripts run, so no root is needed; a program starts through its own dynamic linker.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from gpuvm import directories
from gpuvm.vmm.debian.archive import Archive, Package
from gpuvm.vmm.debian.deb import unpack

LINKER = "usr/lib64/ld-linux-x86-64.so.2"
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib")
_VERSION = 1
_MERGED = ("bin", "sbin", "lib", "lib64")


class PrivateRoot:
    """An unpacked root.

    Attributes
    ----------
    path : Path
        Its folder, to enter or to run programs of.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def command(self, program: str, *, libraries: Sequence[str] = ()) -> list[str]:
        """How to start a program of the root ("usr/bin/…") without entering it.

        Parameters
        ----------
        libraries : sequence of str
            More folders of the root where libraries are.
        """
        folders = ":".join(str(self.path / folder) for folder in (*libraries, *LIBRARIES))
        linker = str((self.path / LINKER).resolve())
        return [linker, "--library-path", folders, "--argv0", program, str(self.path / program)]


def find(name: str) -> PrivateRoot | None:
    """The newest private root of that name that was ever finished, None if there is none."""
    folders = directories.cache("roots").glob(f"{name}-*")
    made = [folder for folder in folders if (folder / ".complete").exists()]
    newest = max(made, key=lambda folder: (folder / ".complete").stat().st_mtime, default=None)
    return None if newest is None else PrivateRoot(newest)


def make(
    name: str,
    archive: Archive,
    packages: Sequence[Package],
    progress: Callable[[str], None] = lambda _: None,
) -> PrivateRoot:
    """Unpack packages into a root of their own, unless it is there already.

    Parameters
    ----------
    name : str
        With the packages' hashes it names the folder.
    progress : callable
        Told in words what is being done.

    Raises
    ------
    PackageError
        If a package cannot be had or unpacked.
    """
    content = hashlib.sha256(repr((_VERSION, [package.sha256 for package in packages])).encode()).hexdigest()
    folder = directories.cache("roots") / f"{name}-{content[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".complete").exists():
            if folder.exists():
                shutil.rmtree(folder)
            partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            try:
                _fill(partial, archive, packages, progress)
                partial.chmod(0o755)
                partial.replace(folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    shutil.rmtree(partial)
                raise
    return PrivateRoot(folder)


def _fill(root: Path, archive: Archive, packages: Sequence[Package], progress: Callable[[str], None]) -> None:
    for folder in _MERGED:
        (root / "usr" / folder).mkdir(parents=True)
        (root / folder).symlink_to(f"usr/{folder}")
    for number, package in enumerate(packages, 1):
        progress(f"{package.name} ({number} of {len(packages)})")
        unpack(archive.fetch(package), root)
    (root / ".complete").touch()
