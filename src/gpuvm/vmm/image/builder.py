"""Builds the guest image from Debian's packages, pinned by a lock file: the same packages and the same sources
of the test programs give the same bytes.

An image is a folder of the cache that is named by what it was made of, so two builds at once make it once and
an image in use is never changed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.resources
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path

from gpuvm import directories
from gpuvm.vmm.debian import Archive, Lock, lock, members
from gpuvm.vmm.errors import ImageError
from gpuvm.vmm.image import recipe
from gpuvm.vmm.image.bytecode import compiled
from gpuvm.vmm.image.cpio import Cpio
from gpuvm.vmm.image.modules import closure, dependency_file

_VERSION = 1
KEPT_S = 30 * 86400
"""Seconds that an image is kept after its last use."""

KERNEL, INITRD, MANIFEST = "vmlinuz", "initrd.cpio", "manifest.json"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Image:
    """A built image.

    Attributes
    ----------
    folder : Path
    """

    folder: Path

    @property
    def kernel(self) -> Path:
        return self.folder / KERNEL

    @property
    def initrd(self) -> Path:
        return self.folder / INITRD

    @property
    def manifest(self) -> dict[str, object]:
        """What it was made of: packages with versions, kernel, modules."""
        content: dict[str, object] = json.loads((self.folder / MANIFEST).read_text())
        return content


def own_lock() -> Path:
    """The lock file that `update` writes and that goes before the package's."""
    return directories.cache("vm") / recipe.LOCK


def pinned() -> Lock:
    """The packages to build from: those pinned on this machine if it did so, else those that gpuvm comes with."""
    path = own_lock()
    if path.exists():
        return lock.read(path)
    with importlib.resources.as_file(_files("image") / recipe.LOCK) as shipped:
        return lock.read(shipped)


def update(archive: Archive, path: Path | None = None) -> Lock:
    """Pin the versions that the archive serves today.

    Parameters
    ----------
    path : Path, optional
        Where the list goes; by default into the cache, for this machine.
    """
    resolved = archive.resolve([recipe.SUITE], recipe.ROOTS)
    pins = Lock(recipe.SUITE, tuple(package for package in resolved if recipe.wanted(package.name)))
    lock.write(path or own_lock(), pins)
    return pins


def latest() -> Image | None:
    """The image of the present pins and programs, None if it is not built."""
    image = Image(_folder(pinned()))
    return image if (image.folder / MANIFEST).exists() else None


def build(archive: Archive | None = None, progress: Progress = lambda _: None) -> Image:
    """Have the image of the present pins and programs, building it if it is not there.

    Raises
    ------
    Unpinned
        If the archive serves a pinned package no longer.
    PackageError, ImageError
        If a package cannot be had, or is not what it must be.
    """
    pins = pinned()
    folder = _folder(pins)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (folder / MANIFEST).exists():
            if folder.exists():
                shutil.rmtree(folder)
            partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            try:
                _fill(partial, archive or Archive(), pins, progress)
                partial.chmod(0o755)
                partial.replace(folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    shutil.rmtree(partial)
                raise
            _forget(folder.parent)
    os.utime(folder)
    return Image(folder)


def _forget(folder: Path) -> None:
    """Remove images, and what builds left, that were last used long ago."""
    for old in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > KEPT_S:
                old.unlink() if old.is_file() else shutil.rmtree(old)


def _folder(pins: Lock) -> Path:
    content = hashlib.sha256(f"{_VERSION} ".encode() + (_files("image") / "recipe.py").read_bytes())
    for package in pins.packages:
        content.update(package.sha256.encode())
    for name, data in sorted(_programs()):
        content.update(name.encode() + b"\0" + data)
    content.update(_init())
    return directories.cache("vm", "images") / content.hexdigest()[:20]


def _files(room: str) -> Traversable:
    return importlib.resources.files("gpuvm.vmm") / room


def _init() -> bytes:
    return (_files("image") / "init.sh").read_bytes()


def _programs() -> Iterator[tuple[str, bytes]]:
    for file in _files("guestprogs").iterdir():
        if file.name.endswith(".py"):
            yield file.name, file.read_bytes()


def _fill(folder: Path, archive: Archive, pins: Lock, progress: Progress) -> None:
    root = Cpio()
    for number, package in enumerate(pins.packages, 1):
        progress(f"{package.name} {package.version} ({number} of {len(pins.packages)})")
        file = archive.fetch(package)
        if package.name.startswith(recipe.KERNEL):
            kernel, names = _kernel(root, file, folder)
        else:
            _files_of(root, package.name, file)
    progress("initial RAM file system")
    for name, data in _programs():
        root.file(f"{recipe.PROGRAMS}/{name}", data)
    for command, module in recipe.COMMANDS.items():
        root.file(f"usr/bin/{command}", recipe.launcher(module).encode(), 0o755)
    compiled(root)
    for path, text in recipe.SETTINGS.items():
        root.file(path, text.encode())
    for path in recipe.FOLDERS:
        root.folder(path)
    for link, target in recipe.LINKS.items():
        root.link(link, target)
    root.device("dev/console", 5, 1)
    root.file("init", _init(), 0o755)
    with (folder / INITRD).open("wb") as out:
        root.write(out)
    manifest = {
        "suite": pins.suite,
        "kernel": kernel,
        "modules": names,
        "packages": {package.name: package.version for package in pins.packages},
        "initrd_sha256": _sha256(folder / INITRD),
        "kernel_sha256": _sha256(folder / KERNEL),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def _kernel(root: Cpio, file: Path, folder: Path) -> tuple[str, list[str]]:
    """Take the kernel itself and the modules that the guest needs; its version and the modules' names."""
    paths: dict[str, str] = {}
    contents: dict[str, bytes] = {}
    builtin = ""
    version = ""
    for member, data in members(file):
        name = member.name.removeprefix("usr/")
        if data is None:
            continue
        if name.startswith("boot/vmlinuz-"):
            version = name.removeprefix("boot/vmlinuz-")
            (folder / KERNEL).write_bytes(data.read())
        elif name.startswith("lib/modules/") and ".ko" in name:
            path = name.split("/", 3)[3]
            if recipe.may_need(path):
                short = path.rsplit("/", 1)[-1].split(".")[0].replace("-", "_")
                paths[short], contents[path] = path, data.read()
        elif name.endswith("/modules.builtin"):
            builtin = data.read().decode()
    if not version:
        raise ImageError(f"{file.name} must hold a kernel, but does not")
    there = [
        name for name in recipe.MODULES if f"/{name.replace('_', '-')}.ko" not in builtin.replace("_", "-")
    ]
    modules = closure(there, paths, contents.__getitem__)
    base = f"usr/lib/modules/{version}"
    for module in modules:
        root.file(f"{base}/{module.path}", module.data)
    root.file(f"{base}/modules.dep", dependency_file(modules).encode())
    return version, [module.name for module in modules]


def _files_of(root: Cpio, package: str, file: Path) -> None:
    """Take what the guest needs of a package."""
    for member, data in members(file):
        name = recipe.place(package, member.name)
        if name is None:
            continue
        if member.issym():
            root.link(name, member.linkname)
        elif data is not None:
            root.file(name, data.read(), member.mode & 0o755)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
