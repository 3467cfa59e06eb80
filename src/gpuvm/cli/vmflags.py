"""How a VM is written on the command line: NAME,KEY=VALUE,…"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpuvm.cli.errors import CommandError
from gpuvm.vmm.daemon.config import VmConfig

_TRUTH = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def parse_vm(what: str, text: str) -> dict[str, Any]:
    """Read `NAME,KEY=VALUE,…` into the keys of a VM's configuration; their values are checked later.

    Raises
    ------
    CommandError
        If it is not of that form.
    """
    name, *rest = text.split(",")
    if not name or "=" in name:
        raise CommandError(f"{what} must be NAME[,KEY=VALUE…], got {text!r}")
    return {"name": name, **pairs(what, rest)}


def pairs(what: str, texts: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE settings with the types that a VM's configuration gives them."""
    types = VmConfig.__annotations__
    found: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise CommandError(f"{what} must have settings of the form KEY=VALUE, got {text!r}")
        kind = str(types.get(key, "str"))
        if kind == "bool":
            found[key] = _TRUTH.get(value.lower(), value)
        elif kind in ("Positive", "Percent") or "int" in kind:
            found[key] = _number(value)
        else:
            found[key] = value
    return found


def _number(text: str) -> Any:
    """A number if it is one; otherwise the text, which the configuration takes as a size or refuses."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
