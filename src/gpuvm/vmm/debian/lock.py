"""A pinned list of packages: which versions, where in the archive, with which hashes; a JSON file."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gpuvm.vmm.debian.archive import Package
from gpuvm.vmm.errors import PackageError


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Packages of one suite, exact to the byte.

    Attributes
    ----------
    suite : str
        Where they were found.
    packages : tuple of Package
    """

    suite: str
    packages: tuple[Package, ...]

    def named(self, prefix: str) -> Package:
        """The package whose name begins so.

        Raises
        ------
        PackageError
            If there is none.
        """
        for package in self.packages:
            if package.name.startswith(prefix):
                return package
        raise PackageError(f"the list of packages must name one that begins with {prefix}, but does not")

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(package.size for package in self.packages)


def read(path: Path) -> Lock:
    """Read a lock file.

    Raises
    ------
    PackageError
        If it is not one.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Lock)
    except (OSError, msgspec.MsgspecError) as error:
        raise PackageError(f"{path} must be a list of pinned packages, but does not read: {error}") from None


def write(path: Path, lock: Lock) -> None:
    """Write a lock file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(lock), indent=1) + b"\n")
    partial.replace(path)
