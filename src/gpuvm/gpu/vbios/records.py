"""Formats of the VBIOS tables that drivers of GF100 read, as data: one record type a table, fields with offset
and width. Sources: envytools' nvbios, and what a driver's parsers accept.

A table is a header (version and lengths first), entries of one length, and for some each entry followed by
sub-entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gpuvm.gpu.vbios.layout import LayoutError, Piece, Pointer

Values = Mapping[str, int | Pointer]


@dataclass(frozen=True, slots=True)
class RecordField:
    """A number at byte `offset`, `size` bytes wide, or bits `low` up of it (`bits` many)."""

    name: str
    offset: int
    size: int = 1
    low: int = 0
    bits: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """A fixed-size group of fields."""

    name: str
    size: int
    fields: tuple[RecordField, ...]

    def encode(self, values: Values) -> tuple[bytes | Pointer, ...]:
        """Return the record's bytes with `values` in their places, the rest 0.

        Raises
        ------
        LayoutError
            If a name is not a field's, or a value is too wide.
        """
        data = bytearray(self.size)
        pointers: list[tuple[int, Pointer]] = []
        known = {each.name: each for each in self.fields}
        for name, value in values.items():
            if name not in known:
                raise LayoutError(f"a value must name a field of {self.name}, got {name!r}")
            at = known[name]
            if isinstance(value, Pointer):
                pointers.append((at.offset, Pointer(value.label, at.size)))
                continue
            width = at.bits or 8 * at.size
            if not 0 <= value < 1 << width:
                raise LayoutError(f"{self.name}.{name} must fit {width} bits, got {value}")
            word = int.from_bytes(data[at.offset : at.offset + at.size], "little") | value << at.low
            data[at.offset : at.offset + at.size] = word.to_bytes(at.size, "little")
        parts: list[bytes | Pointer] = []
        done = 0
        for offset, pointer in sorted(pointers, key=lambda each: each[0]):
            parts += [bytes(data[done:offset]), pointer]
            done = offset + pointer.size
        return (*parts, bytes(data[done:]))


@dataclass(frozen=True, slots=True)
class TableFormat:
    """One table.

    Attributes
    ----------
    header : Record
        With fields VERSION, HEADER (its length), COUNT, LENGTH (of an entry) and, if there are sub-entries,
        SUB_COUNT and SUB_LENGTH.
    """

    name: str
    version: int
    header: Record
    entry: Record
    sub: Record | None = None

    def encode(
        self, entries: Iterable[Values], subs: Iterable[Iterable[Values]] = (), header: Values | None = None
    ) -> Piece:
        """Return the table; `subs` holds each entry's sub-entries, the same number for all."""
        rows, under = list(entries), [list(each) for each in subs]
        fixed: dict[str, int | Pointer] = {
            "VERSION": self.version,
            "HEADER": self.header.size,
            "COUNT": len(rows),
            "LENGTH": self.entry.size,
        }
        if self.sub is not None:
            counts = {len(each) for each in under}
            if len(under) != len(rows) or len(counts) > 1:
                raise LayoutError(
                    f"entries of {self.name} must have the same number of sub-entries, got {under}"
                )
            fixed |= {"SUB_COUNT": counts.pop() if counts else 0, "SUB_LENGTH": self.sub.size}
        parts = [*self.header.encode(fixed | dict(header or {}))]
        for number, row in enumerate(rows):
            parts += self.entry.encode(row)
            if self.sub is not None:
                for each in under[number]:
                    parts += self.sub.encode(each)
        return Piece(tuple(parts))


F = RecordField


def _header(name: str, size: int, order: str, *more: RecordField) -> Record:
    """Declare a header whose bytes from 0 on are VERSION, HEADER, and then `order`'s letters: C count, L length
    of an entry, S length and N count of sub-entries, - something else.
    """
    names = {"C": "COUNT", "L": "LENGTH", "S": "SUB_LENGTH", "N": "SUB_COUNT"}
    first = [F("VERSION", 0), F("HEADER", 1)]
    first += [F(names[letter], 2 + at) for at, letter in enumerate(order) if letter in names]
    return Record(f"{name} header", size, (*first, *more))


# Device control block: what is soldered to the card

DCB_SIGNATURE = 0x4EDCBDCB
DCB = TableFormat(
    "DCB",
    0x40,
    _header(
        "DCB",
        0x1B,
        "CL",
        F("I2C", 0x04, 2),
        F("SIGNATURE", 0x06, 4),
        F("GPIO", 0x0A, 2),
        F("EXTDEV", 0x12, 2),
        F("CONNECTORS", 0x14, 2),
    ),
    Record("DCB entry", 8, (F("TYPE", 0, 4, 0, 4), F("I2C", 0, 4, 4, 4), F("HEADS", 0, 4, 8, 4),
                            F("CONNECTOR", 0, 4, 12, 4), F("BUS", 0, 4, 16, 4), F("OR", 0, 4, 24, 4),
                            F("CONFIG", 4, 4))),
)  # fmt: skip
DCB_OUTPUT_END = 0xE

I2C = TableFormat("I2C ports", 0x40, _header("I2C ports", 5, "CL"), Record("I2C port", 4, (F("TYPE", 3),)))
I2C_UNUSED = 0xFF

GPIO = TableFormat(
    "GPIO lines",
    0x40,
    _header("GPIO lines", 6, "CL"),
    Record("GPIO line", 4, (
        F("LINE", 0, 4, 0, 5), F("FUNCTION", 0, 4, 8, 8), F("DEFAULT", 0, 4, 24, 1), F("SPECIAL", 0, 4, 25, 1),
        F("OFF", 0, 4, 27, 2), F("ON", 0, 4, 29, 2), F("PWM", 0, 4, 31, 1))),
)  # fmt: skip
GPIO_FAN_SENSE, GPIO_FAN = 0x3D, 0x09
GPIO_VID = (0x04, 0x05, 0x06, 0x1A, 0x73, 0x74, 0x75, 0x76)
GPIO_LOW, GPIO_HIGH, GPIO_INPUT_LOW, GPIO_INPUT_HIGH = 0, 1, 2, 3

EXTDEV = TableFormat(
    "external devices", 0x40, _header("external devices", 5, "CL", F("FLAGS", 4)),
    Record("external device", 4, (F("TYPE", 0), F("ADDRESS", 1), F("BUS", 2))),
)  # fmt: skip
EXTDEV_NO_PROBE = 1

CONNECTORS = TableFormat(
    "connectors",
    0x40,
    _header("connectors", 5, "CL"),
    Record("connector", 4, (F("TYPE", 0), F("LOCATION", 1))),
)

# Memory

MEMORY_TYPES = TableFormat(
    "memory types (M+3)",
    0x10,
    _header("memory types", 7, "LC", F("KIND", 4), F("POINTER", 5, 2)),
    Record("memory type", 2, (F("TYPE", 0, 1, 0, 4), F("STRAP", 0, 1, 4, 4), F("GROUP", 1, 1, 0, 4))),
)
MEMORY_GDDR5 = 3

MEMORY_MAP = TableFormat(
    "memory settings by clock (P+4)",
    0x10,
    _header("memory settings", 6, "LSNC"),
    Record("clock range", 0x0E, (F("MIN_MHZ", 0, 2), F("MAX_MHZ", 2, 2))),
    Record("settings of one memory group", 0x0E, (F("TIMING", 1),)),
)

TIMINGS = TableFormat(
    "memory timings (P+8)",
    0x10,
    _header("memory timings", 4, "CL"),
    Record("memory timing", 0x19, tuple(F(name, at) for at, name in (
        (0x00, "WR"), (0x01, "WTR"), (0x02, "CL"), (0x03, "RC"), (0x05, "RFC"), (0x07, "RAS"), (0x09, "RP"),
        (0x0A, "RCDRD"), (0x0B, "RCDWR"), (0x0C, "RRD"), (0x13, "CWL")))),
)  # fmt: skip

# Clocks

PLL_LIMITS_VERSION = 0x40
PLL_LIMITS = TableFormat(
    "PLLs (C+8)",
    PLL_LIMITS_VERSION,
    _header("PLLs", 4, "LC"),
    Record("PLL", 11, (F("TYPE", 0), F("LIMITS", 1, 2), F("REGISTER", 3, 4), F("REFERENCE_MHZ", 9, 2))),
)
PLL_RANGE = Record("PLL limits", 14, (
    F("VCO_MIN_MHZ", 0, 2), F("VCO_MAX_MHZ", 2, 2), F("INPUT_MIN_MHZ", 4, 2), F("INPUT_MAX_MHZ", 6, 2),
    F("M_MIN", 8), F("M_MAX", 9), F("N_MIN", 10), F("N_MAX", 11), F("P_MIN", 12), F("P_MAX", 13)))  # fmt: skip

PERFORMANCE = TableFormat(
    "performance levels (P+0)",
    0x40,
    _header("performance levels", 0x0A, "LSNC"),
    Record("performance level", 0x0C, (F("PSTATE", 0), F("VOLTAGE", 2), F("LINK", 0x0B, 1, 0, 2))),
    Record("clock of a domain", 4, (F("MHZ", 0, 2, 0, 14),)),
)
LINK_5_0, LINK_2_5 = 0, 1

# Power, voltage, temperature

VOLTAGES = TableFormat(
    "voltages (P+12)",
    0x40,
    _header(
        "voltages", 0x12, "LC", F("BASE_UV", 4, 4), F("STEP_UV", 8, 2), F("MASK", 0x0B), F("MAX_UV", 0x0E, 4)
    ),
    Record("voltage", 2, (F("LEVEL", 0), F("VID", 1))),
)
VOLTAGE_MAP = TableFormat(
    "voltage map (P+32)",
    0x10,
    _header("voltage map", 4, "LC"),
    Record("voltage range", 0x14, (F("MIN_UV", 0, 4), F("MAX_UV", 4, 4), F("ARG0", 8, 4))),
)

THERMAL = TableFormat(
    "temperatures (P+16)", 0x30, _header("temperatures", 4, "LC"),
    Record("temperature", 3, (F("ID", 0), F("VALUE", 1, 2), F("HYSTERESIS", 1, 2, 0, 4), F("CELSIUS", 1, 2, 4, 8))),
)  # fmt: skip
THERMAL_SECTION, THERMAL_CRITICAL, THERMAL_DOWN_CLOCK, THERMAL_FAN_BOOST = 0x00, 0x04, 0x07, 0x08
THERMAL_FAN_DUTY, THERMAL_PWM_HZ, THERMAL_SHUTDOWN, THERMAL_FAN_LINEAR = 0x22, 0x26, 0x32, 0x46

FAN = TableFormat(
    "fan (P+88)", 0x10, _header("fan", 4, "LC"),
    Record("fan", 0x10, (F("TYPE", 0), F("DUTY_MIN", 2), F("DUTY_MAX", 3), F("PWM_HZ", 0x0B, 3))),
)  # fmt: skip
FAN_PWM = 1

POWER_BUDGET = TableFormat(
    "power budget (P+44)", 0x20, _header("power budget", 0x0A, "LC", F("CAP", 9)),
    Record("power budget", 0x0E, (F("MIN_MW", 2, 4), F("AVERAGE_MW", 6, 4), F("MAX_MW", 0x0A, 4))),
)  # fmt: skip

# What BIT points to

BIT_SIGNATURE = b"BIT\0"
BIT_ID = 0xB8FF
BIT_HEADER = Record("BIT header", 12, (F("ID", 0, 2), F("SIGNATURE", 2, 4), F("VERSION", 6, 2), F("HEADER", 8),
                                      F("LENGTH", 9), F("COUNT", 10), F("CHECKSUM", 11)))  # fmt: skip
BIT_ENTRY = Record("BIT entry", 6, (F("NAME", 0), F("VERSION", 1), F("LENGTH", 2, 2), F("DATA", 4, 2)))

BIT_ANALOG = Record("BIT A", 3, (F("LOAD_VALUES", 0, 2),))
BIT_CLOCK = Record("BIT C", 10, (F("PLLS", 8, 2),))
BIT_DISPLAY = Record("BIT D", 4, (F("PANELS", 2, 2),))
BIT_INIT = Record("BIT I", 16, (F("SCRIPTS", 0, 2), F("LAST_SCRIPT", 14, 2)))
BIT_LVDS = Record("BIT L", 2, (F("PANELS", 0, 2),))
BIT_MEMORY = Record("BIT M", 7, (F("GROUPS", 0), F("TRANSLATE", 1, 2), F("TYPES", 3, 2)))
BIT_PERFORMANCE = Record("BIT P", 0x60, (
    F("LEVELS", 0x00, 4), F("MEMORY_MAP", 0x04, 4), F("TIMINGS", 0x08, 4), F("VOLTAGES", 0x0C, 4),
    F("THERMAL", 0x10, 4), F("VOLTAGE_MAP", 0x20, 4), F("POWER_BUDGET", 0x2C, 4), F("FAN", 0x58, 4)))  # fmt: skip
BIT_TMDS = Record("BIT T", 2, (F("TABLE", 0, 2),))
BIT_INFO = Record("BIT i", 15, (F("MICRO", 0), F("MINOR", 1), F("CHIP", 2), F("MAJOR", 3), F("PATCH", 4),
                               F("FEATURES", 5), F("DAC_COMPARE", 13, 2)))  # fmt: skip

DAC_COMPARE = Record("DAC comparison", 12, (F("VERSION", 0), F("HEADER", 1), F("DAC", 4, 4), F("TV", 8, 4)))
