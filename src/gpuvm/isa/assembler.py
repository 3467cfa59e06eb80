"""Assembly text in cuobjdump's style -> machine code: the inverse of the disassembler, with labels.

A statement is `[label:] [@[!]P0] NAME.MODS operands;`. `//` and `/* */` are comments, so listings of the
disassembler (and of NVIDIA's tools, whose offsets and words stand in comments) assemble as they are. Where an
address stands as a number it is a byte offset, as in the listing.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

from gpuvm.isa.encoder import PRODUCTS, encode_word
from gpuvm.isa.errors import AssembleError, EncodeError, FieldError
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
from gpuvm.isa.instruction import (
    PT,
    RZ,
    Const,
    Imm,
    Instruction,
    Mem,
    Operand,
    Pred,
    Reg,
    Special,
    Target,
    Value,
)
from gpuvm.isa.rows import Row
from gpuvm.isa.special import special_number
from gpuvm.isa.tables import BY_NAME

_SPACES = {"": "memory", "a": "attribute", "p": "patch", "pix": "pixel", "img": "image"}
_PLAIN_SPACES = ("generic", "shared", "local")
_NAME = re.compile(r"[A-Za-z_$][\w$]*(?:\.[\w$]+)*")
_LABEL = re.compile(r"\s*([A-Za-z_.$][\w.$]*)\s*:")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|\d+\.\d*(?:[eE][-+]?\d+)?|\.\d+|\d+(?:[eE][-+]?\d+)?")
_SPACE = re.compile(r"\s*")
_REGISTER = re.compile(r"R(\d+|Z)")
_PREDICATE = re.compile(r"P(\d+|T)")
_INFINITIES = {"INF": float("inf"), "QNAN": float("nan"), "NAN": float("nan")}


@dataclass(slots=True)
class _Text:
    """One operand as written, before a row says what it is."""

    column: int
    kind: str
    name: str = ""
    number: int | float = 0
    index: int = 0
    bank: int = 0
    neg: bool = False
    abs: bool = False
    inv: bool = False
    suffixes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Statement:
    line: int
    column: int
    guard: Pred
    name: str
    suffixes: list[str]
    sync: bool
    size: int
    operands: list[_Text]
    pc: int = 0


class _Scanner:
    """Reads one statement; every complaint carries line and column."""

    def __init__(self, text: str, line: int, column: int) -> None:
        self.text, self.line, self.first, self.at = text, line, column, 0

    def error(self, message: str, at: int | None = None) -> AssembleError:
        return AssembleError(message, self.line, self.first + (self.at if at is None else at))

    def skip(self) -> None:
        match = _SPACE.match(self.text, self.at)
        if match:
            self.at = match.end()

    def take(self, token: str) -> bool:
        self.skip()
        if self.text.startswith(token, self.at):
            self.at += len(token)
            return True
        return False

    def need(self, token: str) -> None:
        if not self.take(token):
            found = self.text[self.at : self.at + 12].split("\n")[0] or "the end of the statement"
            raise self.error(f"{token!r} must stand here, got {found!r}")

    def match(self, pattern: re.Pattern[str]) -> str | None:
        self.skip()
        found = pattern.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found.group()

    def number(self) -> int:
        negative = self.take("-")
        start = self.at
        text = self.match(_NUMBER)
        if text is None:
            raise self.error("a number must stand here")
        try:
            value = int(text, 0)
        except ValueError:
            raise self.error(f"a whole number must stand here, got {text!r}", start) from None
        return -value if negative else value

    def end(self) -> bool:
        self.skip()
        return self.at >= len(self.text)


def _register_index(scanner: _Scanner, name: str, at: int) -> int | None:
    found = _REGISTER.fullmatch(name)
    if found is None:
        return None
    index = RZ if found[1] == "Z" else int(found[1])
    if index > RZ:
        raise scanner.error(f"a register must be R0 to R62 or RZ, got {name}", at)
    return index


def _predicate(scanner: _Scanner, name: str, at: int) -> int | None:
    found = _PREDICATE.fullmatch(name)
    if found is None:
        return None
    index = PT if found[1] == "T" else int(found[1])
    if index > PT:
        raise scanner.error(f"a predicate must be P0 to P6 or PT, got {name}", at)
    return index


def _inside(scanner: _Scanner, operand: _Text) -> None:
    """`R2+0x10]`, `R2]` or `0x10]`."""
    operand.index, operand.number = RZ, 0
    start = scanner.at
    name = scanner.match(_NAME)
    if name is not None:
        index = _register_index(scanner, name, start)
        if index is None:
            raise scanner.error(f"an address needs a register or a number, got {name}", start)
        operand.index = index
        if scanner.take("+"):
            operand.number = scanner.number()
        elif scanner.take("-"):
            operand.number = -scanner.number()
    else:
        operand.number = scanner.number()
    scanner.need("]")


def _atom(scanner: _Scanner, operand: _Text) -> None:
    start = scanner.at
    if scanner.take("["):
        operand.kind, operand.name = "mem", ""
        _inside(scanner, operand)
        return
    number = scanner.match(_NUMBER)
    if number is not None:
        operand.kind = "number"
        try:
            operand.number = int(number, 0)
        except ValueError:
            operand.number = float(number)
        return
    name = scanner.match(_NAME)
    if name is None:
        raise scanner.error("an operand must stand here")
    if name == "c" and scanner.take("["):
        operand.bank = scanner.number()
        scanner.need("]")
        scanner.need("[")
        operand.kind = "const"
        _inside(scanner, operand)
        return
    if name in _SPACES and scanner.take("["):
        operand.kind, operand.name = "mem", _SPACES[name]
        _inside(scanner, operand)
        return
    number_of = special_number(name)
    if number_of is not None:
        operand.kind, operand.index, operand.name = "special", number_of, name
        return
    head, *suffixes = name.split(".")
    index = _register_index(scanner, head, start)
    if index is not None:
        operand.kind, operand.index, operand.suffixes = "reg", index, suffixes
        return
    index = _predicate(scanner, head, start)
    if index is not None and not suffixes:
        operand.kind, operand.index = "pred", index
        return
    if head in _INFINITIES and not suffixes:
        operand.kind, operand.number = "number", _INFINITIES[head]
        return
    operand.kind, operand.name = "name", name


def _operand(scanner: _Scanner) -> _Text:
    scanner.skip()
    operand = _Text(scanner.first + scanner.at, "")
    if scanner.take("-"):
        operand.neg = True
    else:
        scanner.take("+")
    if scanner.take("~") or scanner.take("!"):
        operand.inv = True
    bar = scanner.take("|")
    _atom(scanner, operand)
    if bar:
        operand.abs = True
        scanner.need("|")
    while scanner.text.startswith(".", scanner.at):
        scanner.at += 1
        suffix = scanner.match(_NAME)
        if suffix is None:
            raise scanner.error("a modifier must follow the dot")
        operand.suffixes += suffix.split(".")
    return operand


def _statement(text: str, line: int, column: int) -> _Statement:
    scanner = _Scanner(text, line, column)
    guard = Pred(PT)
    if scanner.take("@"):
        inverted = scanner.take("!")
        scanner.skip()
        start = scanner.at
        name = scanner.match(_NAME) or ""
        index = _predicate(scanner, name, start)
        if index is None:
            raise scanner.error(f"a guard must be a predicate, got {name or 'nothing'}", start)
        guard = Pred(index, inverted)
    scanner.skip()
    start = scanner.at
    mnemonic = scanner.match(_NAME_WITH_DIGITS)
    if mnemonic is None:
        raise scanner.error("an instruction must stand here")
    name, *suffixes = mnemonic.split(".")
    if name not in BY_NAME:
        raise scanner.error(f"{name} is no GF100 operation", start)
    size = 8
    if suffixes and suffixes[-1] == "SHORT":
        suffixes.pop()
        size = 4
    sync = bool(suffixes) and suffixes[-1] == "S"
    if sync:
        suffixes.pop()
    operands: list[_Text] = []
    if not scanner.end():
        operands.append(_operand(scanner))
        while scanner.take(","):
            operands.append(_operand(scanner))
    if operands and operands[0].kind == "name" and operands[0].name.startswith("CC.") and not scanner.end():
        operands.append(_operand(scanner))
    if not scanner.end():
        raise scanner.error(f"',' or ';' must stand here, got {scanner.text[scanner.at :].split()[0]!r}")
    return _Statement(line, column + start, guard, name, suffixes, sync, size, operands)


_NAME_WITH_DIGITS = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")


class _Mismatch(Exception):
    """A row does not fit; `progress` says how much of the statement it explained."""

    def __init__(self, message: str, column: int, progress: int) -> None:
        super().__init__(message)
        self.column = column
        self.progress = progress


def _spellings(mod: Mod) -> list[tuple[Value, list[str]]]:
    """What can stand for a modifier, longest text first; an empty text where a value is not written."""
    texts = [(value, [part for part in mod.spelled(value).split(".") if part]) for value in mod.codes]
    return sorted(texts, key=lambda item: -len(item[1]))


def _match_in_order(mods: list[Mod], words: list[str]) -> dict[str, Value] | None:
    """Values of `mods` if `words` are exactly their texts in order."""
    if not mods:
        return {} if not words else None
    mod = mods[0]
    if mod.place == "pair":
        partner = mods[1]
        if len(words) >= 2 and words[0] in mod.codes and words[1] in partner.codes:
            rest = _match_in_order(mods[2:], words[2:])
            if rest is not None:
                return {mod.name: words[0], partner.name: words[1], **rest}
        if mod.default in mod.codes and partner.default in partner.codes:
            rest = _match_in_order(mods[2:], words)
            if rest is not None:
                return {mod.name: mod.default, partner.name: partner.default, **rest}
        return None
    for value, text in _spellings(mod):
        if words[: len(text)] == text:
            rest = _match_in_order(mods[1:], words[len(text) :])
            if rest is not None:
                return {mod.name: value, **rest}
    return None


def _match_flags_anywhere(mods: list[Mod], words: list[str]) -> dict[str, Value] | None:
    """As above with on/off modifiers wherever they stand; the others keep their order."""
    left = list(words)
    values: dict[str, Value] = {}
    valued: list[Mod] = []
    for mod in mods:
        if not isinstance(mod.default, bool):
            valued.append(mod)
            continue
        text = mod.spelled(True)
        value = text in left
        if value:
            left.remove(text)
        if value not in mod.codes:
            return None
        values[mod.name] = value
    rest = _match_in_order(valued, left)
    return None if rest is None else values | rest


def _float_bits(number: float, width: int) -> int:
    if width == 64:
        return int.from_bytes(struct.pack("<d", number), "little")
    try:
        packed = struct.pack("<f", number)
    except OverflowError:
        packed = struct.pack("<f", float("inf") if number > 0 else float("-inf"))
    return int.from_bytes(packed, "little")


def _immediate(text: _Text, width: int, takes_neg: bool) -> Imm:
    value = text.number
    if isinstance(value, float):
        bits = _float_bits(value, width)
        if text.neg and not takes_neg:
            return Imm(bits ^ 1 << (width - 1), False, text.abs, text.inv)
        return Imm(bits, text.neg, text.abs, text.inv)
    if text.neg and not takes_neg:
        return Imm(-value, False, text.abs, text.inv)
    return Imm(value, text.neg, text.abs, text.inv)


def _convert(
    place: Field, text: _Text, labels: Mapping[str, int], count: int | None, plain: bool
) -> Operand | None:
    """The operand that `text` is where `place` stands, None if it is of another kind.

    `plain`: a minus belongs to the number, not to a negation bit.
    """
    if isinstance(place, (RegField, CountedField, PairedField)):
        if text.kind != "reg":
            return None
        size = count if count is not None else place.count if isinstance(place, RegField) else 1
        return Reg(text.index, size, text.neg, text.abs, text.inv)
    if isinstance(place, PredField):
        return Pred(text.index, text.inv) if text.kind == "pred" else None
    if isinstance(place, ConstField):
        if text.kind != "const" or text.index != RZ:
            return None
        return Const(text.bank, int(text.number), text.neg, text.abs, text.inv)
    if isinstance(place, ImmField):
        if text.kind != "number":
            return None
        return _immediate(text, place.width, place.neg >= 0 and not plain)
    if isinstance(place, MemField):
        base = Reg(text.index, place.base_count)
        if place.space == "const":
            return Mem("const", base, int(text.number), text.bank) if text.kind == "const" else None
        fits = text.kind == "mem" and (
            text.name == place.space or (not text.name and place.space in _PLAIN_SPACES)
        )
        return Mem(place.space, base, int(text.number)) if fits else None
    if isinstance(place, SpecialField):
        return Special(text.index, text.name) if text.kind == "special" else None
    if isinstance(place, TargetField):
        if text.kind == "number" and isinstance(text.number, int):
            return Target(-text.number if text.neg else text.number)
        if text.kind == "name":
            if text.name not in labels:
                raise _Mismatch(f"the label {text.name} is not defined", text.column, 1 << 20)
            return Target(labels[text.name])
        return None
    assert isinstance(place, FixedField)
    kinds = {Pred: "pred", Imm: "number", Reg: "reg"}
    if kinds.get(type(place.operand)) != text.kind:
        return None
    written: dict[str, Operand] = {
        "pred": Pred(text.index, text.inv),
        "reg": Reg(text.index),
        "number": Imm(int(text.number) if text.kind == "number" else 0),
    }
    return written[text.kind]


def _kind_name(place: Field) -> str:
    names = {
        "reg": "a register",
        "run": "a register",
        "same": "the destination's register",
        "pred": "a predicate",
        "const": "a constant",
        "imm": "an immediate",
        "mem": "a memory address",
        "special": "a special register",
        "target": "a label or an offset",
    }
    if isinstance(place, FixedField):
        return "PT" if isinstance(place.operand, Pred) else "0x0"
    return names[place.kind]


def _take_suffix(mod: Mod, text: _Text) -> Value:
    """Value of a modifier that stands on an operand."""
    for value in mod.codes:
        spelled = mod.spelled(value)
        if spelled and spelled in text.suffixes:
            text.suffixes.remove(spelled)
            return value
    for value in mod.codes:
        if not mod.spelled(value):
            return value
    raise _Mismatch(f"the operand needs one of: {', '.join(str(v) for v in mod.codes)}", text.column, 50)


def _try_row(row: Row, statement: _Statement, labels: Mapping[str, int], plain: bool, loose: bool) -> int:
    """Word of the statement as `row`; _Mismatch if it is not of that form. `plain` as in `_convert`.

    `loose`: on/off modifiers may stand in any order.
    """
    suffix_mods = [mod for mod in row.mods if mod.place in ("suffix", "pair")]
    match = _match_flags_anywhere if loose else _match_in_order
    mods = match(suffix_mods, statement.suffixes)
    if mods is None:
        said = ".".join(statement.suffixes)
        problem = f"does not take the modifiers .{said} in this form" if said else "needs modifiers"
        known = [mod.name for mod in suffix_mods]
        raise _Mismatch(
            f"{row.name} {problem}; its modifiers, in order: {', '.join(known) or 'none'}",
            statement.column,
            0,
        )
    texts = [
        _Text(t.column, t.kind, t.name, t.number, t.index, t.bank, t.neg, t.abs, t.inv, list(t.suffixes))
        for t in statement.operands
    ]
    for mod in row.mods:
        if mod.place == "operand":
            spelled = {mod.spelled(value) or f"CC.{value}": value for value in mod.codes}
            if texts and texts[0].kind == "name" and texts[0].name in spelled:
                mods[mod.name] = spelled[texts.pop(0).name]
            else:
                mods[mod.name] = mod.default
    for position, literal in row.literals:
        if position >= len(texts) or texts[position].name != literal.text:
            column = texts[position].column if position < len(texts) else statement.column
            raise _Mismatch(f"{literal.text} must stand here", column, 2 + position)
        del texts[position]
    fields = (*row.dst, *row.src)
    if len(texts) != len(fields):
        raise _Mismatch(
            f"{row.name} takes {len(fields) + len(row.literals)} operands, got {len(statement.operands)}",
            statement.column,
            1,
        )
    for mod in row.mods:
        place = {"dst": 0, "src0": len(row.dst), "src1": len(row.dst) + 1}.get(mod.place)
        if place is not None:
            mods[mod.name] = _take_suffix(mod, texts[place]) if place < len(texts) else mod.default
    selector = row.match
    for mod in row.mods:
        if mod.mask:
            selector |= mod.write(mods[mod.name])
    operands: list[Operand] = []
    for position, (place_field, text) in enumerate(zip(fields, texts, strict=True)):
        count: int | None = None
        if isinstance(place_field, CountedField):
            count = place_field.counts[place_field.selector.get(selector)]
            if count is None:
                raise _Mismatch(f"{row.name} has no form with these modifiers", statement.column, 2)
        operand = _convert(place_field, text, labels, count, plain)
        if operand is None:
            raise _Mismatch(
                f"{row.name}: {_kind_name(place_field)} must stand here", text.column, 9 + position
            )
        try:
            # The sign of a product may stand on either factor; the encoder moves it.
            on_factor = row.name in PRODUCTS and position == len(row.dst) + 1 and text.neg
            if not on_factor:
                place_field.write(operand, statement.pc)
        except FieldError as error:
            raise _Mismatch(f"{row.name}: {error}", text.column, 10 + position) from None
        if text.suffixes:
            raise _Mismatch(f"this operand takes no modifier .{text.suffixes[0]}", text.column, 10 + position)
        operands.append(operand)
    instruction = Instruction(
        row.name,
        tuple(operands[: len(row.dst)]),
        tuple(operands[len(row.dst) :]),
        mods,
        statement.guard,
        statement.sync,
        statement.size,
    )
    try:
        return encode_word(instruction, statement.pc)
    except EncodeError as error:
        raise _Mismatch(str(error), statement.column, 40) from None


def _encode(statement: _Statement, labels: Mapping[str, int]) -> int:
    best: _Mismatch | None = None
    rows = [row for row in BY_NAME[statement.name] if row.size == statement.size]
    for loose, plain in product((False, True), repeat=2):
        for row in rows:
            try:
                return _try_row(row, statement, labels, plain, loose)
            except _Mismatch as mismatch:
                if best is None or mismatch.progress > best.progress:
                    best = mismatch
    if best is None:
        raise AssembleError(
            f"{statement.name} has no form of {statement.size} bytes", statement.line, statement.column
        )
    raise AssembleError(str(best), statement.line, best.column)


def _blank_comments(text: str) -> str:
    """The text with comments as spaces, so that lines and columns stay."""

    def blank(found: re.Match[str]) -> str:
        return "".join("\n" if letter == "\n" else " " for letter in found.group())

    return re.sub(r"/\*.*?\*/|//[^\n]*", blank, text, flags=re.DOTALL)


def _statements(text: str) -> Iterator[tuple[str, int, int]]:
    """(text, line, column) of what stands between semicolons and line ends."""
    for line, content in enumerate(_blank_comments(text).split("\n"), 1):
        column = 0
        for piece in content.split(";"):
            if piece.strip():
                indent = len(piece) - len(piece.lstrip())
                yield piece.strip(), line, column + indent + 1
            column += len(piece) + 1


def assemble(text: str, base: int = 0) -> bytes:
    """Machine code of an assembly text.

    Parameters
    ----------
    text : str
        Statements, one or more a line.
    base : int
        Byte offset of the first instruction; labels and addresses count from the code segment's base.

    Raises
    ------
    AssembleError
        With line and column of what is wrong.
    """
    statements: list[_Statement] = []
    labels: dict[str, int] = {}
    pc = base
    for piece, line, column in _statements(text):
        rest, start = piece, column
        while True:
            label = _LABEL.match(rest)
            if label is None:
                break
            if label[1] in labels:
                raise AssembleError(f"the label {label[1]} is defined twice", line, start)
            labels[label[1]] = pc
            start += label.end()
            rest = rest[label.end() :]
        if not rest.strip():
            continue
        statement = _statement(rest, line, start)
        statement.pc = pc
        pc += statement.size
        statements.append(statement)
    return b"".join(_encode(s, labels).to_bytes(s.size, "little") for s in statements)
