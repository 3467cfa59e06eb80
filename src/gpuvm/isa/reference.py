"""Writes `docs/isa.md`, the list of all operations with operands and modifiers, from the tables.

`python -m gpuvm.isa.reference > docs/isa.md`; a test keeps the file and the tables together.
"""

from __future__ import annotations

import sys

from gpuvm.isa.fields import (
    ConstField,
    CountedField,
    Field,
    FixedField,
    ImmField,
    MemField,
    Mod,
    PairedField,
    PredField,
    RegField,
    SpecialField,
    TargetField,
)
from gpuvm.isa.notes import GROUPS, INTRODUCTION, NOTES
from gpuvm.isa.rows import Row
from gpuvm.isa.tables import BY_NAME


def _flags(field: RegField | ConstField | ImmField) -> str:
    text = ("-" if field.neg >= 0 else "") + ("|" if field.abs >= 0 else "") + ("~" if field.inv >= 0 else "")
    return f"({text})" if text else ""


def _field(field: Field) -> str:
    if isinstance(field, RegField):
        return ("R" if field.count == 1 else f"R:{field.count}") + _flags(field)
    if isinstance(field, CountedField):
        counts = sorted({count for count in field.counts if count is not None})
        return f"R:{counts[0]}..{counts[-1]}"
    if isinstance(field, PairedField):
        return "dst" + ("(-)" if field.mask else "")
    if isinstance(field, PredField):
        return "P" + ("(!)" if field.inv >= 0 else "")
    if isinstance(field, ConstField):
        bank = "b" if not isinstance(field.bank, int) else f"{field.bank:#x}"
        return f"c[{bank}]{_flags(field)}"
    if isinstance(field, ImmField):
        sign = "s" if field.signed else "u"
        shift = f"<<{field.shift}" if field.shift else ""
        return f"imm {sign}{field.bits.width}{shift}{_flags(field)}"
    if isinstance(field, MemField):
        base = "" if field.low < 0 else f"R:{field.base_count}" if field.base_count > 1 else "R"
        offset = "" if field.offset is None else f"{'s' if field.signed else 'u'}{field.offset.width}"
        unit = f"*{field.unit}" if field.unit > 1 and offset else ""
        return f"{field.space}[{'+'.join(part for part in (base, offset + unit) if part)}]"
    if isinstance(field, SpecialField):
        return "SR"
    if isinstance(field, TargetField):
        return f"target {'rel' if field.relative else 'abs'}{field.bits.width}"
    assert isinstance(field, FixedField)
    return "PT" if field.operand.__class__.__name__ == "Pred" else "all"


def _operands(rows: list[Row]) -> list[str]:
    """Distinct operand lists of the forms, alternatives of one position joined."""
    shapes: dict[tuple[int, int], list[list[str]]] = {}
    for row in rows:
        columns = shapes.setdefault(
            (len(row.dst), len(row.src)), [[] for _ in range(len(row.dst) + len(row.src))]
        )
        for column, field in zip(columns, (*row.dst, *row.src), strict=True):
            text = _field(field)
            if text not in column:
                column.append(text)
    lines = []
    for (dst, _), columns in shapes.items():
        texts = [" / ".join(column) for column in columns]
        left, right = "; ".join(texts[:dst]), "; ".join(texts[dst:])
        lines.append(f"({left}) <- ({right})")
    return lines


def _modifier(name: str, mods: list[Mod]) -> str:
    values: list[str] = []
    for mod in mods:
        for value in mod.codes:
            text = f'"{value}"' if isinstance(value, str) else str(value)
            if text not in values:
                values.append(text)
    if values in (["False", "True"], ["True", "False"], ["False"], ["True"]):
        return f"`{name}` bool"
    shown = "0..15" if values == [str(n) for n in range(16)] else " ".join(values)
    default = mods[0].default
    spelled = f'"{default}"' if isinstance(default, str) else str(default)
    return f"`{name}` {shown} (default {spelled})"


def _operation(name: str) -> list[str]:
    rows = BY_NAME[name]
    lines = [f"### {name}", ""]
    if name in NOTES:
        lines += [NOTES[name], ""]
    for size in (8, 4):
        chosen = [row for row in rows if row.size == size]
        for text in _operands(chosen):
            lines.append(f"- {size} bytes: `{text}`")
    flags = []
    if not any(row.guarded for row in rows):
        flags.append("no guard")
    if not any(row.syncable for row in rows):
        flags.append("no .S")
    if flags:
        lines.append(f"- {', '.join(flags)}")
    if rows[0].mods:
        mods = [
            _modifier(mod.name, [m for row in rows for m in row.mods if m.name == mod.name])
            for mod in rows[0].mods
        ]
        lines.append(f"- mods: {'; '.join(mods)}")
    return [*lines, ""]


def reference() -> str:
    """The whole document."""
    lines = [INTRODUCTION]
    listed = {name for names in GROUPS.values() for name in names}
    rest = [name for name in BY_NAME if name not in listed]
    for title, names in [*GROUPS.items(), ("Other", tuple(rest))]:
        names = tuple(name for name in names if name in BY_NAME)
        if names:
            lines += [f"## {title}", ""]
            for name in names:
                lines += _operation(name)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
