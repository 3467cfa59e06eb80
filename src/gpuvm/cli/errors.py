"""What the command says when it cannot do what a person asked: one sentence on stderr and an exit status;
and the reading of options and files that ends so."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from gpuvm.vmm.sizes import parse_size

USAGE = 2
"""Exit status: the request itself is wrong."""
FAILED = 1
"""Exit status: the request was run and something was not verified or failed."""


class CommandError(Exception):
    """Ends the command with one sentence and `status`."""

    def __init__(self, sentence: str, status: int = USAGE) -> None:
        super().__init__(sentence)
        self.status = status


def choose(what: str, text: str, valid: Collection[str]) -> list[str]:
    """Split a comma-separated list of names; "all" stands for every valid one.

    Names compare without regard to case and come back as `valid` spells them, each once, in the order given.

    Raises
    ------
    CommandError
        If a name is not valid; the sentence lists those that are.
    """
    spelled = {name.lower(): name for name in valid}
    chosen: dict[str, None] = {}
    for name in (part.strip() for part in text.split(",")):
        if name.lower() == "all":
            chosen.update(dict.fromkeys(valid))
        elif name.lower() in spelled:
            chosen[spelled[name.lower()]] = None
        else:
            raise CommandError(f"{what} must be one of {listed(valid)}, got {name!r}")
    return list(chosen)


def choose_one(what: str, text: str, valid: Collection[str]) -> str:
    """Return the one name of `valid` that `text` is; raise `CommandError` otherwise."""
    for name in valid:
        if name.lower() == text.lower():
            return name
    raise CommandError(f"{what} must be one of {listed(valid)}, got {text!r}")


def listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def existing_file(path: Path) -> Path:
    """Return `path` if it is a readable file; raise `CommandError` otherwise."""
    if not path.is_file():
        raise CommandError(f"{path} must be a file; {'it is a folder' if path.is_dir() else 'there is none'}")
    return path


def save(path: Path, data: bytes) -> None:
    """Write a file."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise CommandError(f"{path} must be writable: {error.strerror}", FAILED) from None


def size_bytes(what: str, text: str) -> int:
    """Read a size such as `256M`, `1G`, `65536` or `512MiB` as bytes (K, M, G are powers of 1024)."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise CommandError(f"{what} must be {error}") from None
