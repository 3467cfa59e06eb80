"""The control socket's protocol: a JSON object a line, one answer a line for each, in order.

{"command": "remove", "name": "alice"}
{"result": null}
{"command": "remove", "name": "alice"}
{"error": "a VM must be one of those that are served (none), got 'alice'"}
"""

from __future__ import annotations

from typing import Any

import msgspec

MAX_LINE = 1 << 16
"""Bytes of the longest request."""


class _Command(msgspec.Struct, forbid_unknown_fields=True, tag_field="command", tag=str.lower):
    pass


class List(_Command):
    """Answer: a `Status`."""


class Add(_Command):
    """Serve one more VM, of keys as in the configuration. Answer: its `VmStatus`."""

    vm: dict[str, Any]


class Remove(_Command):
    """End a VM's session and give back what it had."""

    name: str


class Reset(_Command):
    """Reset a VM's virtual GPU."""

    name: str


class Set(_Command):
    """Change what is given. Answer: the `Status` after.

    Attributes
    ----------
    scheduler : str or None
        For all.
    name : str or None
        The VM that `weight` and `cap` are of.
    cap : float or None
        Percent; 0 takes a cap away.
    """

    scheduler: str | None = None
    name: str | None = None
    weight: int | None = None
    cap: float | None = None


class Stop(_Command):
    """End the daemon, as SIGTERM does. Answered before."""


Request = List | Add | Remove | Reset | Set | Stop


class Answer(msgspec.Struct, omit_defaults=True):
    """What came of a request: `error` is a sentence, or None."""

    result: msgspec.Raw = msgspec.Raw(b"null")
    error: str | None = None


decode_request = msgspec.json.Decoder(Request).decode
decode_answer = msgspec.json.Decoder(Answer).decode


def encode_result(result: Any) -> bytes:
    """A line that answers a request."""
    return b'{"result":' + msgspec.json.encode(result) + b"}\n"


def encode_error(sentence: str) -> bytes:
    """A line that refuses one."""
    return msgspec.json.encode({"error": sentence}) + b"\n"
