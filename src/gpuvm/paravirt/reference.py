"""The call interface as the Markdown that docs/para.md shows, made from the tables in `abi`."""

from __future__ import annotations

from gpuvm.paravirt.abi import (
    ARGUMENTS,
    MULTICALL,
    NAIVE,
    OPERATIONS,
    RESULT_TEXT,
    SPLIT,
    Field,
    Result,
)

_SIZES = {"u32": 4, "u64": 8}
_MODES = (("pv-naive", NAIVE), ("pv-multicall", MULTICALL), ("pv-drm", SPLIT))


def operations() -> str:
    """Every operation: number, who offers it, arguments and results with their offsets in the slot."""
    lines = ["| no. | operation | offered by | arguments | results | what |", "|---|---|---|---|---|---|"]
    for op, row in sorted(OPERATIONS.items()):
        modes = ", ".join(f"`{mode}`" for mode, offered in _MODES if op in offered)
        arguments = _fields(row.arguments)
        if row.array:
            arguments += f"; then {row.array}"
        lines.append(
            f"| {int(op)} | `{op.name}` | {modes} | {arguments or '-'} | {_fields(row.results) or '-'} "
            f"| {row.text} |"
        )
    return "\n".join(lines)


def results() -> str:
    """What word 0 of a slot says after a call."""
    lines = ["| word 0 | name | what |", "|---|---|---|"]
    lines += [f"| {int(result)} | `{result.name}` | {RESULT_TEXT[result]} |" for result in Result]
    return "\n".join(lines)


def _fields(fields: tuple[Field, ...]) -> str:
    at, parts = ARGUMENTS, []
    for field in fields:
        if field.name != "pad":
            parts.append(f"{at:#x} {field.type} {field.name}: {field.text}")
        at += _SIZES[field.type]
    return "; ".join(parts)
