"""Kernel modules of the guest: those that a driver needs, found by the modules' own dependency notes.

Debian's packages hold no modules.dep (a script makes it at installation), so it is made here from the
`.modinfo` section of each module that is reached.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

from elftools.elf.elffile import ELFFile

from gpuvm.vmm.errors import ImageError


@dataclass(frozen=True, slots=True)
class Module:
    """One module, uncompressed.

    Attributes
    ----------
    path : str
        Below /lib/modules/VERSION, without a suffix of compression.
    needs : tuple of str
        Modules that must be loaded before, by name; some may be built into the kernel.
    """

    name: str
    path: str
    data: bytes
    needs: tuple[str, ...]


def canonical(name: str) -> str:
    """A module's name from its file's or an alias' spelling."""
    return name.rsplit("/", 1)[-1].split(".")[0].replace("-", "_")


def module(path: str, data: bytes) -> Module:
    """Read a module file, compressed or not."""
    if path.endswith(".xz"):
        path, data = path.removesuffix(".xz"), lzma.decompress(data)
    section = ELFFile(BytesIO(data)).get_section_by_name(".modinfo")
    if section is None:
        raise ImageError(f"{path} must be a kernel module, but has no .modinfo")
    facts = [
        text.split("=", 1) for text in section.data().decode("utf-8", "replace").split("\0") if "=" in text
    ]
    needs: list[str] = []
    for key, value in facts:
        if key == "depends":
            needs += [canonical(name) for name in value.split(",") if name]
        elif key == "softdep" and value.startswith("pre:"):
            needs += [canonical(name) for name in value[4:].split("post:")[0].split()]
    return Module(canonical(path), path, data, tuple(needs))


def closure(wanted: Iterable[str], paths: Mapping[str, str], read: Callable[[str], bytes]) -> list[Module]:
    """The modules wanted and all that they need, each behind those that it needs.

    Parameters
    ----------
    paths : mapping
        All modules of the package: path by name.
    read : callable
        The contents of a path.

    Raises
    ------
    ImageError
        If a wanted module is not there. One that another needs may be built in.
    """
    found: dict[str, Module] = {}

    def visit(name: str) -> None:
        if name in found or name not in paths:
            return
        it = module(paths[name], read(paths[name]))
        for need in it.needs:
            visit(need)
        found[name] = it

    for name in map(canonical, wanted):
        if name not in paths:
            raise ImageError(f"the kernel's package must hold the module {name}, but does not")
        visit(name)
    return list(found.values())


def dependency_file(modules: Sequence[Module]) -> str:
    """The text of modules.dep, of modules in an order to load them in: each one's path and those of all that it
    needs, the first to load last, as modprobe reads it."""
    known = {module.name: module for module in modules}

    def needed(name: str) -> set[str]:
        direct = {need for need in known[name].needs if need in known}
        return direct.union(*map(needed, direct))

    lines = []
    for module in modules:
        before = needed(module.name)
        paths = [other.path for other in reversed(modules) if other.name in before]
        lines.append(" ".join([f"{module.path}:", *paths]))
    return "".join(f"{line}\n" for line in lines)
