"""A private apt: this machine's Debian archive, other suites of it, nothing of the machine's own state.

Resolves packages with their dependencies from apt's signed indexes, and downloads files that are named with
their hash. Needs no root: all that apt writes is under the cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from gpuvm import directories
from gpuvm.vmm.errors import PackageError, Unpinned

ARCHITECTURE = "amd64"
HELPER = "/usr/lib/apt/apt-helper"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
INDEX_AGE_S = 3600
"""Seconds that a downloaded index is used before apt looks for a newer one."""
_TIMEOUT_S = 600

_SUITES = re.compile(r"/dists/(?:stable|testing|sid|bookworm|trixie|forky|duke)/")
"""The suites that mark a Debian archive among those that the machine reads."""

_SETTINGS = """\
#clear APT::Update;
#clear DPkg::Post-Invoke;
Dir::State "{root}";
Dir::State::lists "{root}/lists";
Dir::State::status "{root}/status";
Dir::State::extended_states "{root}/extended";
Dir::Cache "{root}/cache";
Dir::Etc::SourceList "{root}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
APT::Architecture "{architecture}";
APT::Architectures "{architecture}";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::ForceHash "SHA256";
Acquire::Retries "3";
"""
_URI = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})")
_RELEASE_URI = re.compile(r"^'(?P<site>[^']+)/dists/[^']+'")


@dataclass(frozen=True, slots=True)
class Package:
    """A file of an archive.

    Attributes
    ----------
    path : str
        Below the archive's root, as "pool/main/l/linux/…_amd64.deb".
    size : int
        Bytes.
    """

    name: str
    version: str
    path: str
    size: int
    sha256: str

    @property
    def file(self) -> str:
        """Name of the file, decoded."""
        return unquote(self.path.rsplit("/", 1)[-1])


class Archive:
    """The Debian archive that this machine's apt reads.

    Parameters
    ----------
    folder : Path, optional
        Where indexes and packages are kept.

    Raises
    ------
    PackageError
        If this machine has no apt, or apt reads no Debian archive.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or directories.cache("debian")
        self.packages = self.folder / "packages"
        """Downloaded packages, by name and hash."""
        if shutil.which("apt-get") is None or not os.path.exists(HELPER):
            raise PackageError("this machine must have apt, which fetches Debian's packages, but has none")
        self._site: str | None = None

    @property
    def site(self) -> str:
        """The archive's address, from apt's configuration."""
        if self._site is None:
            self._site = _find_site()
        return self._site

    def resolve(self, suites: Sequence[str], names: Sequence[str]) -> list[Package]:
        """Find packages and all that they depend on, from apt's index of today.

        Parameters
        ----------
        suites : sequence of str
            The last is preferred where it has a package, the others complete it.

        Raises
        ------
        PackageError
            If the archive has no such suite or package.
        """
        with self._private(suites) as settings:
            command = ["apt-get", "-c", str(settings), "install", "-y", "-qq", "--print-uris"]
            done = _run([*command, "-t", suites[-1], *names])
        found = []
        for line in done.splitlines():
            match = _URI.match(line)
            if match is None:
                continue
            name, version, *_ = unquote(match["file"]).split("_")
            path = match["uri"].removeprefix(self.site).lstrip("/")
            found.append(Package(name, version, path, int(match["size"]), match["sha256"]))
        if not found:
            raise PackageError(f"apt must find {', '.join(names)} in {', '.join(suites)}, but names no file")
        return sorted(found, key=lambda package: package.name)

    def version(self, suites: Sequence[str], name: str) -> str:
        """The version of a package in the last suite, "" if it is not there."""
        with self._private(suites) as settings:
            text = _run(["apt-cache", "-c", str(settings), "madison", name])
        rows = (line.split("|") for line in text.splitlines())
        return next((row[1].strip() for row in rows if f" {suites[-1]}/" in row[-1]), "")

    def fetch(self, package: Package) -> Path:
        """Download a package if it is not in the cache; its file, whose hash is right.

        Raises
        ------
        Unpinned
            If the archive does not serve it any more.
        PackageError
            If what comes has another hash, or the archive does not answer.
        """
        target = self.packages / f"{package.sha256[:16]}_{package.file}"
        if target.exists():
            return target
        self.packages.mkdir(parents=True, exist_ok=True)
        with self._private(()) as settings:
            partial = target.with_name(f".{target.name}.{os.getpid()}.{time.monotonic_ns()}")
            uri = f"{self.site}/{package.path}"
            command = [HELPER, "-c", str(settings), "download-file", uri, str(partial)]
            try:
                done = subprocess.run(
                    [*command, f"SHA256:{package.sha256}"],
                    capture_output=True,
                    text=True,
                    timeout=_TIMEOUT_S,
                    env=_environment(),
                    check=False,
                )
                if done.returncode or not partial.exists():
                    raise _download_error(package, done.stdout + done.stderr)
                if _sha256(partial) != package.sha256:
                    raise PackageError(f"{package.file} must have the hash {package.sha256}, but has another")
                partial.replace(target)
            except subprocess.TimeoutExpired:
                raise PackageError(f"the archive must serve {package.file} in {_TIMEOUT_S} s") from None
            finally:
                for left in (partial, partial.with_name(partial.name + ".FAILED")):
                    left.unlink(missing_ok=True)
        return target

    @contextlib.contextmanager
    def _private(self, suites: Sequence[str]) -> Iterator[Path]:
        """Have apt's settings, and indexes of these suites that are not too old; the settings' file."""
        root = self.folder / "apt" / ("+".join(suites) or "none")
        (root / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (root / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        settings = root / "apt.conf"
        with (root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not settings.exists():
                (root / "status").touch()
                (root / "sources.list").touch()
                _write(settings, _SETTINGS.format(root=root, architecture=ARCHITECTURE))
            if suites:
                self._update(root, settings, suites)
            else:
                fcntl.flock(lock, fcntl.LOCK_UN)
            yield settings

    def _update(self, root: Path, settings: Path, suites: Sequence[str]) -> None:
        stamp = root / "updated"
        if stamp.exists() and time.time() - stamp.stat().st_mtime < INDEX_AGE_S:
            return
        signed = f" [signed-by={KEYRING}]" if os.path.exists(KEYRING) else ""
        lines = (f"deb{signed} {self.site} {suite} main\n" for suite in suites)
        _write(root / "sources.list", "".join(lines))
        _run(["apt-get", "-c", str(settings), "update", "-qq", "-o", "APT::Update::Error-Mode=any"])
        stamp.touch()


def _find_site() -> str:
    """Ask the machine's apt which Debian archive it reads."""
    listed = ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Origin: Debian"]
    lines = _run(listed).split("\n")
    sites = [line.split()[0] for line in lines if line and "security" not in line]
    if not sites:  # no index was ever fetched here; its sources are known all the same
        lines = _run(["apt-get", "update", "--print-uris", "-qq"]).split("\n")
        known = (
            match["site"] for line in lines if (match := _RELEASE_URI.match(line)) and _SUITES.search(line)
        )
        sites = sorted(
            {site for site in known if "security" not in site}, key=lambda s: not s.endswith("/debian")
        )
    if not sites:
        raise PackageError(
            "apt on this machine must read a Debian archive, but its sources name none; add one to its sources"
        )
    return sites[0].rstrip("/")


def _download_error(package: Package, said: str) -> PackageError:
    if " 404 " in said or "Not Found" in said:
        return Unpinned(f"the archive serves {package.name} {package.version} no longer")
    if "Hash Sum mismatch" in said or "does not match" in said:
        return PackageError(f"{package.file} must have the hash {package.sha256}, but has another")
    reason = next(
        (line[2:].strip() for line in reversed(said.splitlines()) if line.startswith("E:")), "no reason"
    )
    return PackageError(f"{package.file} must come from the archive, but apt says: {reason}")


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, env=_environment(), check=False
        )
    except subprocess.TimeoutExpired:
        raise PackageError(f"`{' '.join(command[:1])}` must end in {_TIMEOUT_S} s") from None
    if done.returncode:
        said = [
            line for line in done.stderr.splitlines() if line.startswith("E:")
        ] or done.stderr.splitlines()
        raise PackageError(f"`{command[0]}` must succeed, but says: {' '.join(said[:3]) or 'nothing'}")
    return done.stdout


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
