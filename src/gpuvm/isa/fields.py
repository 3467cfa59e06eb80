"""Fields of an instruction word: where an operand or a modifier sits and how its bits are read and written.

A row of the tables (`rows.py`) is made of these; decoder, encoder and the text side know no other bit
positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gpuvm.isa.errors import FieldError, KindError
from gpuvm.isa.instruction import Const, Imm, Mem, Operand, Pred, Reg, Special, Target, Value
from gpuvm.isa.special import special_name
from gpuvm.isa.spelling import spell_operand


class Bits:
    """Bit positions of one number, low part first: `Bits((26, 17), (55, 3))` is 17 at 26, then 3 at 55."""

    __slots__ = ("mask", "parts", "width")

    def __init__(self, *parts: tuple[int, int]) -> None:
        self.parts = parts
        self.width = sum(width for _, width in parts)
        mask = 0
        for low, width in parts:
            part = ((1 << width) - 1) << low
            if mask & part:
                raise ValueError(f"bit parts must not overlap, got {parts}")
            mask |= part
        self.mask = mask

    def get(self, word: int) -> int:
        value = shift = 0
        for low, width in self.parts:
            value |= ((word >> low) & ((1 << width) - 1)) << shift
            shift += width
        return value

    def put(self, value: int) -> int:
        word = 0
        for low, width in self.parts:
            word |= (value & ((1 << width) - 1)) << low
            value >>= width
        return word

    def get_signed(self, word: int) -> int:
        value = self.get(word)
        return value - (1 << self.width) if value >> (self.width - 1) else value


def at(low: int, width: int = 1) -> Bits:
    """One run of `width` bits from bit `low` up."""
    return Bits((low, width))


def _flag(bit: int) -> int:
    return 0 if bit < 0 else 1 << bit


class Field:
    """An operand's place in the word. `mask` is every bit it owns."""

    kind: str = ""
    mask: int = 0

    def read(self, word: int, pc: int) -> Operand:
        """Operand that `word`, standing at byte offset `pc`, holds."""
        raise NotImplementedError

    def write(self, operand: Operand, pc: int) -> int:
        """Bits for `operand`; FieldError if it does not fit."""
        raise NotImplementedError

    def samples(self) -> Iterator[int]:
        """Bit patterns worth testing besides random ones."""
        yield 0
        yield self.mask


class Modified(Field):
    """Part common to operands whose value can be negated, made absolute or inverted by a bit each (-1: no
    such bit).
    """

    def __init__(self, neg: int, abs_: int, inv: int) -> None:
        self.neg, self.abs, self.inv = neg, abs_, inv
        self.flags = _flag(neg) | _flag(abs_) | _flag(inv)

    def write_flags(self, operand: Reg | Const | Imm) -> int:
        word = 0
        for name, bit, wanted in (
            ("negation", self.neg, operand.neg),
            ("an absolute value", self.abs, operand.abs),
            ("inversion", self.inv, operand.inv),
        ):
            if wanted:
                if bit < 0:
                    raise FieldError(f"this operand takes no {name}, got {spell_operand(operand)}")
                word |= 1 << bit
        return word


_REGISTERS: dict[int, list[Reg]] = {}


def _registers(count: int) -> list[Reg]:
    """All registers of one count, index + 64 * neg + 128 * abs + 256 * inv: decoding makes no new objects."""
    table = _REGISTERS.get(count)
    if table is None:
        table = [Reg(i & 63, count, bool(i & 64), bool(i & 128), bool(i & 256)) for i in range(512)]
        _REGISTERS[count] = table
    return table


class RegField(Modified):
    """General register in six bits from `low`."""

    kind = "reg"

    def __init__(self, low: int, count: int = 1, neg: int = -1, abs_: int = -1, inv: int = -1) -> None:
        super().__init__(neg, abs_, inv)
        self.low, self.count = low, count
        self.mask = (63 << low) | self.flags
        self.table = _registers(count)

    def read(self, word: int, pc: int) -> Reg:
        index = word >> self.low & 63
        if word & self.flags:
            if self.neg >= 0 and word >> self.neg & 1:
                index |= 64
            if self.abs >= 0 and word >> self.abs & 1:
                index |= 128
            if self.inv >= 0 and word >> self.inv & 1:
                index |= 256
        return self.table[index]

    def write(self, operand: Operand, pc: int) -> int:
        if not isinstance(operand, Reg):
            raise KindError(f"a register must stand here, got {spell_operand(operand)}")
        if not 0 <= operand.index <= 63:
            raise FieldError(f"a register's index must be 0 to 63, got {operand.index}")
        if operand.count != self.count:
            raise FieldError(
                f"{self.count} consecutive register(s) must stand here, got {operand.count} from"
                f" R{operand.index}"
            )
        return operand.index << self.low | self.write_flags(operand)


class CountedField(Field):
    """Registers whose number other bits of the word decide: `counts[selector]`, None for a reserved code.

    The selector's bits belong to modifiers; the encoder checks the count by reading the word back.
    """

    kind = "run"

    def __init__(self, low: int, selector: Bits, counts: tuple[int | None, ...]) -> None:
        self.low, self.selector, self.counts = low, selector, counts
        self.mask = 63 << low

    def read(self, word: int, pc: int) -> Reg:
        count = self.counts[self.selector.get(word)]
        if count is None:
            raise FieldError("the number of registers is not known for these modifiers")
        return _registers(count)[word >> self.low & 63]

    def write(self, operand: Operand, pc: int) -> int:
        if not isinstance(operand, Reg):
            raise KindError(f"a register must stand here, got {spell_operand(operand)}")
        if not 0 <= operand.index <= 63 or operand.neg or operand.abs or operand.inv:
            raise KindError(f"a plain register must stand here, got {spell_operand(operand)}")
        return operand.index << self.low


class PairedField(Field):
    """A source that has to be the destination's register (`FFMA32I`): owns no bits but a negation."""

    kind = "same"

    def __init__(self, low: int, neg: int = -1) -> None:
        self.field = RegField(low, neg=neg)
        self.mask = _flag(neg)
        self.low = low

    def read(self, word: int, pc: int) -> Reg:
        return self.field.read(word, pc)

    def write(self, operand: Operand, pc: int) -> int:
        return self.field.write(operand, pc)


_PREDICATES = [Pred(i & 7, bool(i & 8)) for i in range(16)]


class PredField(Field):
    """Predicate in three bits, with an inversion bit where it is read."""

    kind = "pred"

    def __init__(self, bits: Bits | int, inv: int = -1) -> None:
        self.bits = at(bits, 3) if isinstance(bits, int) else bits
        self.inv = inv
        self.mask = self.bits.mask | _flag(inv)

    def read(self, word: int, pc: int) -> Pred:
        index = self.bits.get(word)
        if self.inv >= 0 and word >> self.inv & 1:
            index |= 8
        return _PREDICATES[index]

    def write(self, operand: Operand, pc: int) -> int:
        if not isinstance(operand, Pred):
            raise KindError(f"a predicate must stand here, got {spell_operand(operand)}")
        if not 0 <= operand.index <= 7:
            raise FieldError(f"a predicate's index must be 0 to 7, got {operand.index}")
        word = self.bits.put(operand.index)
        if operand.inv:
            if self.inv < 0:
                raise FieldError("this predicate takes no inversion")
            word |= 1 << self.inv
        return word


class FixedField(Field):
    """An operand that this form does not encode: always the same."""

    kind = "fixed"

    def __init__(self, operand: Operand) -> None:
        self.operand = operand

    def read(self, word: int, pc: int) -> Operand:
        return self.operand

    def write(self, operand: Operand, pc: int) -> int:
        if operand != self.operand:
            raise FieldError(
                f"this form has {spell_operand(self.operand)} here, got {spell_operand(operand)}"
            )
        return 0


class ConstField(Modified):
    """Word in a constant bank. `offset` counts units of `unit` bytes; `bank` is a field or a fixed number."""

    kind = "const"

    def __init__(
        self, offset: Bits, bank: Bits | int, unit: int = 4, neg: int = -1, abs_: int = -1, inv: int = -1
    ) -> None:
        super().__init__(neg, abs_, inv)
        self.offset, self.bank, self.unit = offset, bank, unit
        self.mask = offset.mask | self.flags | (bank.mask if isinstance(bank, Bits) else 0)

    def read(self, word: int, pc: int) -> Const:
        bank = self.bank if isinstance(self.bank, int) else self.bank.get(word)
        offset = self.offset.get(word) * self.unit
        if not word & self.flags:
            return Const(bank, offset)
        return Const(
            bank,
            offset,
            self.neg >= 0 and bool(word >> self.neg & 1),
            self.abs >= 0 and bool(word >> self.abs & 1),
            self.inv >= 0 and bool(word >> self.inv & 1),
        )

    def write(self, operand: Operand, pc: int) -> int:
        if not isinstance(operand, Const):
            raise KindError(f"a constant must stand here, got {spell_operand(operand)}")
        limit = self.unit << self.offset.width
        if not 0 <= operand.offset < limit or operand.offset % self.unit:
            raise FieldError(
                f"a constant's offset must be a multiple of {self.unit} below {limit:#x}, got"
                f" {operand.offset:#x}"
            )
        word = self.offset.put(operand.offset // self.unit) | self.write_flags(operand)
        if isinstance(self.bank, int):
            if operand.bank != self.bank:
                raise FieldError(f"this form reads bank {self.bank:#x} only, got {operand.bank:#x}")
        else:
            if not 0 <= operand.bank < 1 << self.bank.width:
                raise FieldError(
                    f"a constant bank must be 0 to {(1 << self.bank.width) - 1}, got {operand.bank}"
                )
            word |= self.bank.put(operand.bank)
        return word


class ImmField(Modified):
    """Immediate: `bits` shifted left by `shift`, sign-extended first if `signed`, as `width` raw bits."""

    kind = "imm"

    def __init__(
        self,
        bits: Bits,
        *,
        shift: int = 0,
        signed: bool = False,
        width: int = 32,
        neg: int = -1,
        abs_: int = -1,
        inv: int = -1,
    ) -> None:
        super().__init__(neg, abs_, inv)
        self.bits, self.shift, self.signed, self.width = bits, shift, signed, width
        self.mask = bits.mask | self.flags
        self.limit = (1 << width) - 1

    def read(self, word: int, pc: int) -> Imm:
        value = (
            self.bits.get_signed(word) if self.signed else self.bits.get(word)
        ) << self.shift & self.limit
        if not word & self.flags:
            return Imm(value)
        return Imm(
            value,
            self.neg >= 0 and bool(word >> self.neg & 1),
            self.abs >= 0 and bool(word >> self.abs & 1),
            self.inv >= 0 and bool(word >> self.inv & 1),
        )

    def write(self, operand: Operand, pc: int) -> int:
        if not isinstance(operand, Imm):
            raise KindError(f"an immediate must stand here, got {spell_operand(operand)}")
        value = operand.value
        if not -(1 << (self.width - 1)) <= value <= self.limit:
            raise FieldError(f"an immediate must fit {self.width} bits, got {value:#x}")
        value &= self.limit
        if self.signed:
            if value >> (self.width - 1):
                value -= 1 << self.width
            low, high = -(1 << (self.bits.width - 1)), (1 << (self.bits.width - 1)) - 1
        else:
            low, high = 0, (1 << self.bits.width) - 1
        if value & ((1 << self.shift) - 1) or not low <= value >> self.shift <= high:
            what = f"a multiple of 2**{self.shift}" if self.shift else f"{low} to {high}"
            raise FieldError(f"the immediate must be {what} in this form, got {operand.value:#x}")
        return self.bits.put(value >> self.shift) | self.write_flags(operand)


class MemField(Field):
    """Memory address: register (count 2 where addresses have 64 bits) plus signed offset in units of `unit`
    bytes.

    `low` is the base register's place, -1 for an address without a register. `bank` counts for space "const".
    """

    kind = "mem"

    def __init__(
        self,
        space: str,
        low: int,
        offset: Bits | None,
        *,
        unit: int = 1,
        base_count: int = 1,
        bank: Bits | None = None,
        signed: bool = True,
    ) -> None:
        self.space, self.low, self.offset, self.unit, self.base_count = space, low, offset, unit, base_count
        self.bank, self.signed = bank, signed
        self.table = _registers(base_count)
        self.mask = (
            (0 if low < 0 else 63 << low) | (offset.mask if offset else 0) | (bank.mask if bank else 0)
        )

    def read(self, word: int, pc: int) -> Mem:
        base = self.table[63 if self.low < 0 else word >> self.low & 63]
        offset = 0
        if self.offset is not None:
            offset = (self.offset.get_signed(word) if self.signed else self.offset.get(word)) * self.unit
        return Mem(self.space, base, offset, self.bank.get(word) if self.bank else 0)

    def write(self, operand: Operand, pc: int) -> int:
        if not isinstance(operand, Mem):
            raise KindError(f"a memory address must stand here, got {spell_operand(operand)}")
        if operand.space != self.space:
            raise FieldError(
                f"an address in {self.space} space must stand here, got one in {operand.space} space"
            )
        base = operand.base
        if base.count != self.base_count or base.neg or base.abs or base.inv or not 0 <= base.index <= 63:
            raise FieldError(
                f"the address needs a plain base of {self.base_count} register(s), got {spell_operand(base)}"
            )
        word = 0
        if self.low >= 0:
            word |= base.index << self.low
        elif base.index != 63:
            raise FieldError(f"this form has no base register, got R{base.index}")
        if self.offset is None:
            if operand.offset:
                raise FieldError(f"this form has no offset, got {operand.offset:#x}")
        else:
            width = self.offset.width
            low, high = (
                (-(1 << (width - 1)), (1 << (width - 1)) - 1) if self.signed else (0, (1 << width) - 1)
            )
            if operand.offset % self.unit or not low <= operand.offset // self.unit <= high:
                raise FieldError(
                    f"the offset must be a multiple of {self.unit},"
                    f" {low * self.unit:#x} to {high * self.unit:#x},"
                    f" got {operand.offset:#x}"
                )
            word |= self.offset.put(operand.offset // self.unit)
        if self.bank is not None:
            if not 0 <= operand.bank < 1 << self.bank.width:
                raise FieldError(
                    f"a constant bank must be 0 to {(1 << self.bank.width) - 1}, got {operand.bank}"
                )
            word |= self.bank.put(operand.bank)
        elif operand.bank:
            raise FieldError(f"only constant memory has banks, got {operand.bank}")
        return word


class SpecialField(Field):
    """Special register number in eight bits."""

    kind = "special"

    def __init__(self, low: int) -> None:
        self.low = low
        self.mask = 255 << low
        self.table = [Special(i, special_name(i)) for i in range(256)]

    def read(self, word: int, pc: int) -> Special:
        return self.table[word >> self.low & 255]

    def write(self, operand: Operand, pc: int) -> int:
        if not isinstance(operand, Special) or not 0 <= operand.index <= 255:
            raise KindError(f"a special register 0 to 255 must stand here, got {spell_operand(operand)}")
        return operand.index << self.low


class TargetField(Field):
    """Branch target: absolute, or relative to the end of the instruction, which has `size` bytes."""

    kind = "target"

    def __init__(self, bits: Bits, *, relative: bool, unit: int = 1, size: int = 8) -> None:
        self.bits, self.relative, self.unit, self.size = bits, relative, unit, size
        self.mask = bits.mask

    def read(self, word: int, pc: int) -> Target:
        if not self.relative:
            return Target(self.bits.get(word))
        return Target(pc + self.size + self.bits.get_signed(word) * self.unit)

    def write(self, operand: Operand, pc: int) -> int:
        if not isinstance(operand, Target):
            raise KindError(f"a branch target must stand here, got {spell_operand(operand)}")
        if not self.relative:
            if not 0 <= operand.offset < 1 << self.bits.width:
                raise FieldError(
                    f"an absolute target must fit {self.bits.width} bits, got {operand.offset:#x}"
                )
            return self.bits.put(operand.offset)
        distance = operand.offset - pc - self.size
        reach = 1 << (self.bits.width - 1)
        if distance % self.unit or not -reach <= distance // self.unit < reach:
            raise FieldError(
                f"the target must be a multiple of {self.unit} within {reach * self.unit:#x} bytes,"
                f" got a distance of {distance}"
            )
        return self.bits.put(distance // self.unit)


class Mod:
    """Modifier field: name, place, the value of each code (None = reserved), and how the text shows it.

    Parameters
    ----------
    name : str
        Key in `Instruction.mods`.
    bits : Bits or None
        None for a modifier that this row fixes (`values` then has one entry).
    values : tuple
        Value of each code.
    default : Value
        What the encoder and the text assume when nothing is said.
    place : str
        "suffix" (".FTZ" on the mnemonic), "pair" (a suffix that is shown with its neighbour pair or not at
        all), "dst", "src0" or "src1" (on that operand, "R0.CC", "R1.B2"), "operand" ("CC.NE" before the
        operands), "hidden" (implied).
    texts : dict
        Text of values that are not spelled as themselves; "" = not shown.
    """

    __slots__ = ("bits", "codes", "default", "mask", "name", "place", "texts", "values")

    def __init__(
        self,
        name: str,
        bits: Bits | None,
        values: tuple[Value | None, ...],
        default: Value,
        place: str = "suffix",
        texts: Mapping[Value, str] | None = None,
    ) -> None:
        self.name, self.bits, self.values, self.default, self.place = name, bits, values, default, place
        self.mask = bits.mask if bits else 0
        self.codes: dict[Value, int] = {value: code for code, value in enumerate(values) if value is not None}
        self.texts = dict(texts) if texts else {}
        if bits is not None and len(values) > 1 << bits.width:
            raise ValueError(f"modifier {name} has more values than codes")

    def read(self, word: int) -> Value | None:
        """The value, None if the code is reserved."""
        if self.bits is None:
            return self.values[0]
        code = self.bits.get(word)
        return self.values[code] if code < len(self.values) else None

    def write(self, value: Value) -> int:
        code = self.codes.get(value)
        if code is None or type(self.values[code]) is not type(value):
            known = ", ".join(repr(v) for v in self.codes)
            raise FieldError(f"modifier {self.name} must be one of {known} in this form, got {value!r}")
        return 0 if self.bits is None else self.bits.put(code)

    def spelled(self, value: Value) -> str:
        """Text of a value without its leading dot, "" if it is not shown."""
        text = self.texts.get(value)
        if text is not None:
            return text
        if isinstance(value, bool):
            return self.name.upper() if value else ""
        if value == self.default:
            return ""
        return str(value)


def flag(name: str, bit: int, text: str | None = None, place: str = "suffix") -> Mod:
    """On/off modifier at one bit."""
    return Mod(name, at(bit), (False, True), False, place, {True: text} if text else None)


def choice(
    name: str,
    bits: Bits,
    values: str,
    default: str | None = None,
    *,
    show: bool = True,
    place: str = "suffix",
    texts: dict[Value, str] | None = None,
) -> Mod:
    """Modifier with named values; `values` is one word a code, "-" for a reserved code and "~" for the empty
    name.

    `show`: the default is spelled too.
    """
    names = tuple(None if v == "-" else "" if v == "~" else v for v in values.split())
    first = next(v for v in names if v is not None) if default is None else default
    spelling: dict[Value, str] = dict(texts or {})
    if show and first:
        spelling.setdefault(first, first)
    return Mod(name, bits, names, first, place, spelling)


def fixed(
    name: str,
    value: Value,
    default: Value | None = None,
    *,
    show: bool = False,
    text: str | None = None,
    place: str = "suffix",
) -> Mod:
    """Modifier that a row implies. `default` is the operation's default where it differs from `value`."""
    default = value if default is None else default
    texts: dict[Value, str] = {}
    if text is not None:
        texts[value] = text
    elif show and isinstance(value, str):
        texts[value] = value
    return Mod(name, None, (value,), default, place, texts)
