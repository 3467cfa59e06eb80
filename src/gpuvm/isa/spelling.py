"""How operands are written: shared by the disassembler and by error messages."""

from __future__ import annotations

from gpuvm.isa.instruction import PT, RZ, Const, Mem, Operand, Pred, Reg, Special, Target

_SPACES = {"attribute": "a", "patch": "p", "pixel": "pix", "image": "img"}


def spell_number(value: int) -> str:
    """Hexadecimal with its sign in front."""
    return f"-{-value:#x}" if value < 0 else f"{value:#x}"


def _register(index: int) -> str:
    return "RZ" if index == RZ else f"R{index}"


def spell_predicate(operand: Pred) -> str:
    """`P0` to `P6`, `PT`, with `!` when inverted."""
    return ("!" if operand.inv else "") + ("PT" if operand.index == PT else f"P{operand.index}")


def _address(operand: Mem) -> str:
    if operand.base.index == RZ:
        inner = "RZ" if operand.space == "image" else spell_number(operand.offset)
    elif operand.offset:
        sign = "+" if operand.offset > 0 else ""
        inner = f"{_register(operand.base.index)}{sign}{spell_number(operand.offset)}"
    else:
        inner = _register(operand.base.index)
    prefix = f"c[{operand.bank:#x}]" if operand.space == "const" else _SPACES.get(operand.space, "")
    return f"{prefix}[{inner}]"


def spell_operand(operand: Operand) -> str:
    """Text of one operand."""
    if isinstance(operand, Pred):
        return spell_predicate(operand)
    if isinstance(operand, Mem):
        return _address(operand)
    if isinstance(operand, Special):
        return operand.name
    if isinstance(operand, Target):
        return spell_number(operand.offset)
    if isinstance(operand, Reg):
        text = _register(operand.index)
    elif isinstance(operand, Const):
        text = f"c[{operand.bank:#x}][{operand.offset:#x}]"
    else:
        text = spell_number(operand.value)
    if operand.abs:
        text = f"|{text}|"
    if operand.inv:
        text = f"~{text}"
    return f"-{text}" if operand.neg else text
