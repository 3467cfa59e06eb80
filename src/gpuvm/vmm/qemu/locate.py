"""Which QEMU: the machine's own if it has `vfio-user-pci`, else one of a newer Debian suite in a private root."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field

from gpuvm.vmm.debian import Archive, PrivateRoot, root
from gpuvm.vmm.errors import PackageError, QemuError

PROGRAM = "qemu-system-x86_64"
DEVICE = "vfio-user-pci"
OLDEST = (10, 1)
"""The first release with the device."""

PACKAGES = ("qemu-system-x86", "seabios")
SUITES = (("trixie", "trixie-backports"), ("forky",), ("sid",))
"""Where a newer QEMU is looked for, in this order; the last of each is preferred, the first completes it."""

ROOT = "qemu"
_TIMEOUT_S = 60
_VERSION = re.compile(r"version (\d+)\.(\d+)(\S*)")


@dataclass(frozen=True, slots=True)
class Qemu:
    """A QEMU that runs.

    Attributes
    ----------
    command : tuple of str
        How it is started, options that it always needs included.
    version : str
    where : str
        For people: the path, or which private root.
    accelerator : str
        "kvm" or "tcg"; `acceleration.choose` makes it the one that works.
    why_not_kvm : str
        What failed, where it is "tcg".
    """

    command: tuple[str, ...]
    version: str
    where: str
    environment: dict[str, str] = field(default_factory=dict)
    accelerator: str = "tcg"
    why_not_kvm: str = ""

    @property
    def posts_many(self) -> bool:
        """Whether it sends many register writes in one message and gets that right: since 11.0."""
        return int(self.version.split(".")[0]) >= 11

    def __str__(self) -> str:
        how = (
            "KVM" if self.accelerator == "kvm" else f"TCG ({self.why_not_kvm})" if self.why_not_kvm else "TCG"
        )
        return f"QEMU {self.version}, {self.where}, {how}"


def find() -> Qemu | None:
    """A QEMU that can do it and is there already, None if there is none.

    $GPUVM_QEMU names one that goes before all others.
    """
    named = os.environ.get("GPUVM_QEMU")
    if named:
        found = _examine((named,), named)
        if isinstance(found, str):
            raise QemuError(f"GPUVM_QEMU must be a QEMU {'.'.join(map(str, OLDEST))} or newer: {found}")
        return found
    own = shutil.which(PROGRAM)
    if own is not None:
        found = _examine((own,), own)
        if isinstance(found, Qemu):
            return found
    prepared = root.find(ROOT)
    if prepared is not None:
        found = _of_root(prepared)
        if isinstance(found, Qemu):
            return found
    return None


def prepare(archive: Archive | None = None, progress: Callable[[str], None] = lambda _: None) -> Qemu:
    """Have a QEMU that can do it: `find`, or one from a newer suite in a private root.

    Raises
    ------
    QemuError
        If none can be had.
    """
    return find() or _from_archive(archive or Archive(), progress)


def _from_archive(archive: Archive, progress: Callable[[str], None]) -> Qemu:
    tried = []
    for suites in SUITES:
        progress(f"looking for a newer QEMU in {suites[-1]}")
        try:
            version = archive.version(suites, PACKAGES[0])
            if not _new_enough(version.split(":")[-1]):
                tried.append(f"{suites[-1]} has {version or 'none'}")
                continue
            made = root.make(ROOT, archive, archive.resolve(suites, PACKAGES), progress)
        except PackageError as error:
            tried.append(f"{suites[-1]}: {error}")
            continue
        got = _of_root(made)
        if isinstance(got, Qemu):
            return got
        tried.append(f"{suites[-1]}: {got}")
    raise QemuError(
        f"QEMU {'.'.join(map(str, OLDEST))} or newer must be on PATH or come from Debian, but: {'; '.join(tried)}"
    )


def _new_enough(version: str) -> bool:
    match = re.match(r"(\d+)\.(\d+)", version)
    return match is not None and (int(match[1]), int(match[2])) >= OLDEST


def _of_root(private: PrivateRoot) -> Qemu | str:
    share = private.path / "usr/share"
    command = [*private.command(f"usr/bin/{PROGRAM}", libraries=(_MODULES,))]
    firmware = [option for folder in ("qemu", "seabios") for option in ("-L", str(share / folder))]
    environment = {"QEMU_MODULE_DIR": str(private.path / _MODULES)}
    return _examine((*command, *firmware), f"in the private root {private.path}", environment)


_MODULES = "usr/lib/x86_64-linux-gnu/qemu"


def _examine(command: tuple[str, ...], where: str, environment: dict[str, str] | None = None) -> Qemu | str:
    """Try one; what it lacks if it cannot do it."""
    environment = environment or {}
    try:
        text = _output((*command, "--version"), environment)
        devices = _output((*command, "-M", "none", "-device", "help"), environment)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{where} does not run ({error})"
    match = _VERSION.search(text)
    if match is None:
        return f"{where} does not tell its version"
    version = f"{match[1]}.{match[2]}{match[3]}".rstrip(",")
    if f'"{DEVICE}"' not in devices:
        return f"{where} is {version}, without {DEVICE}"
    return Qemu(command, version, where, environment)


def _output(command: tuple[str, ...], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    return done.stdout


def lacks(command: tuple[str, ...], where: str) -> str:
    """What a QEMU lacks, as part of a sentence; "" if it can do it."""
    found = _examine(command, where)
    return found if isinstance(found, str) else ""
