"""What this card's VBIOS says: no outputs, its memory, its performance levels, its voltages and its fan."""

from __future__ import annotations

from gpuvm.gpu.profile import Level, Profile
from gpuvm.gpu.vbios import records as r
from gpuvm.gpu.vbios import script
from gpuvm.gpu.vbios.layout import Image, Piece, Pointer, header, pcir

IMAGE_SIZE = 4096
"""The least that a driver fetches; every word of it is a register read."""

PROM_BASE, PROM_SIZE = 0x300000, 0x100000

_PCIR_AT, _DCB_POINTER_AT, _FIRST_TABLE_AT = 0x40, 0x36, 0x60
_CLASS_VGA = 0x030000
_VERSION = {"MAJOR": 0x70, "CHIP": 0x00, "MINOR": 0x00, "MICRO": 0x00, "PATCH": 0x01}

FAN_LINE, FAN_SENSE_LINE = 0x10, 0x03
VOLTAGE_LINES = (0x00, 0x01, 0x02, 0x0A)
"""GPIO lines; the fan's must be one that has a pulse width modulator."""

VOLTAGE_BASE_UV, VOLTAGE_STEP_UV = 812_500, 12_500

DOMAINS = ("hub6", "hub1", "copy", "core", "rop", "memory", "video", "", "", "", "power", "hub7")
"""Clock domain of each sub-entry of a performance level; the core's clock is that of the multiprocessors."""

PLL_MEMORY, PLL_MEMORY_REFERENCE = 0x04, 0x0C
_PLLS = (
    # type, register, reference in MHz (0: the crystal)
    (0x01, 0x137000, 0),
    (0x02, 0x137020, 0),
    (0x03, 0x137040, 0),
    (0x07, 0x1370E0, 0),
    (PLL_MEMORY, 0x132000, 27),
    (PLL_MEMORY_REFERENCE, 0x10FE20, 0),
)
_PLL_RANGE = {
    "VCO_MIN_MHZ": 600, "VCO_MAX_MHZ": 2000, "INPUT_MIN_MHZ": 1, "INPUT_MAX_MHZ": 200,
    "M_MIN": 1, "M_MAX": 255, "N_MIN": 8, "N_MAX": 255, "P_MIN": 1, "P_MAX": 63,
}  # fmt: skip

_TIMING = {"WR": 18, "WTR": 8, "CL": 17, "RC": 58, "RFC": 94, "RAS": 40, "RP": 18, "RCDRD": 18, "RCDWR": 12,
           "RRD": 8, "CWL": 4}  # fmt: skip
"""In memory clocks, as GDDR5 of that time has them."""

_POST = 0x2240C
"""PUNITS.UNK00C: bit 1 says that the card has been initialised."""

SCRIPTS = (
    (script.Write(0x000200, 0xFFFFFFFF), script.Wait(20), script.Write(0x001100, 0xFFFFFFFF)),
    (script.Write(0x020100, 0xFFFFFFFF), script.Mask(_POST, 0xFFFFFFFD, 0x00000002)),
)
"""What brings the card up: engines out of reset, stale interrupts gone, then marked as done."""


def domains(level: Level) -> list[r.Values]:
    """Return the sub-entries of a performance level."""
    clocks = {
        "core": 2 * level.core_mhz, "rop": 2 * level.core_mhz, "memory": level.memory_mhz,
        "hub6": level.hub_mhz, "hub1": level.hub_mhz, "hub7": level.hub_mhz, "copy": level.hub_mhz,
        "video": level.hub_mhz, "power": level.hub_mhz,
    }  # fmt: skip
    return [{"MHZ": clocks.get(name, 0)} for name in DOMAINS]


def _devices(image: Image, profile: Profile) -> None:
    """Device control block: no output, no I2C port, and the lines of fan and voltage regulator."""
    gpio: list[r.Values] = [
        {
            "LINE": FAN_LINE,
            "FUNCTION": r.GPIO_FAN,
            "SPECIAL": 1,
            "OFF": r.GPIO_LOW,
            "ON": r.GPIO_HIGH,
            "PWM": 1,
        },
        {
            "LINE": FAN_SENSE_LINE,
            "FUNCTION": r.GPIO_FAN_SENSE,
            "OFF": r.GPIO_INPUT_LOW,
            "ON": r.GPIO_INPUT_HIGH,
        },
    ]
    vid = (profile.levels[-1].microvolts - VOLTAGE_BASE_UV) // VOLTAGE_STEP_UV
    gpio += [
        {
            "LINE": line,
            "FUNCTION": function,
            "DEFAULT": vid >> position & 1,
            "OFF": r.GPIO_LOW,
            "ON": r.GPIO_HIGH,
        }
        for position, (line, function) in enumerate(zip(VOLTAGE_LINES, r.GPIO_VID, strict=False))
    ]
    image.put("DCB", r.DCB.encode([{"TYPE": r.DCB_OUTPUT_END}], header={
        "SIGNATURE": r.DCB_SIGNATURE, "I2C": Pointer("I2C"), "GPIO": Pointer("GPIO"),
        "EXTDEV": Pointer("EXTDEV"), "CONNECTORS": Pointer("CONNECTORS")}))  # fmt: skip
    image.put("I2C", r.I2C.encode([{"TYPE": r.I2C_UNUSED}]))
    image.put("GPIO", r.GPIO.encode(gpio))
    image.put("EXTDEV", r.EXTDEV.encode([], header={"FLAGS": r.EXTDEV_NO_PROBE}))
    image.put("CONNECTORS", r.CONNECTORS.encode([]))


def _memory(image: Image, profile: Profile) -> None:
    top = profile.levels[-1].memory_mhz
    image.put("memory types", r.MEMORY_TYPES.encode([{"TYPE": profile.memory_type, "STRAP": 0, "GROUP": 0}]))
    image.put("memory map", r.MEMORY_MAP.encode([{"MIN_MHZ": 0, "MAX_MHZ": top}], [[{"TIMING": 0}]]))
    image.put("timings", r.TIMINGS.encode([_TIMING]))


def _performance(image: Image, profile: Profile) -> None:
    levels = profile.levels
    image.put(
        "levels",
        r.PERFORMANCE.encode(
            [{"PSTATE": each.number, "VOLTAGE": at, "LINK": r.LINK_5_0} for at, each in enumerate(levels)],
            [domains(each) for each in levels],
        ),
    )
    image.put("voltages", r.VOLTAGES.encode([], header={
        "BASE_UV": VOLTAGE_BASE_UV, "STEP_UV": VOLTAGE_STEP_UV, "MASK": (1 << len(VOLTAGE_LINES)) - 1,
        "MAX_UV": VOLTAGE_BASE_UV + VOLTAGE_STEP_UV * ((1 << len(VOLTAGE_LINES)) - 1)}))  # fmt: skip
    image.put("voltage map", r.VOLTAGE_MAP.encode(
        [{"MIN_UV": each.microvolts, "MAX_UV": each.microvolts} for each in levels]))  # fmt: skip
    image.put("thermal", r.THERMAL.encode([
        {"ID": r.THERMAL_SECTION},
        *({"ID": key, "CELSIUS": limit, "HYSTERESIS": 5} for key, limit in (
            (r.THERMAL_CRITICAL, 104), (r.THERMAL_DOWN_CLOCK, 100), (r.THERMAL_FAN_BOOST, 95),
            (r.THERMAL_SHUTDOWN, 110))),
        {"ID": r.THERMAL_FAN_DUTY, "VALUE": 100 << 8 | 30},
        {"ID": r.THERMAL_PWM_HZ, "VALUE": 25_000},
        {"ID": r.THERMAL_FAN_LINEAR, "VALUE": 95 << 8 | 50}]))  # fmt: skip
    image.put("fan", r.FAN.encode([{"TYPE": r.FAN_PWM, "DUTY_MIN": 30, "DUTY_MAX": 100, "PWM_HZ": 25_000}]))
    limit = profile.watts * 1000
    image.put("power budget", r.POWER_BUDGET.encode(
        [{"MIN_MW": limit // 2, "AVERAGE_MW": limit, "MAX_MW": limit}], header={"CAP": 0}))  # fmt: skip
    image.put("PLL limits", Piece(r.PLL_RANGE.encode(_PLL_RANGE)))
    image.put("PLLs", r.PLL_LIMITS.encode([
        {"TYPE": kind, "REGISTER": register, "REFERENCE_MHZ": reference, "LIMITS": Pointer("PLL limits")}
        for kind, register, reference in _PLLS]))  # fmt: skip


_BIT: tuple[tuple[str, int, r.Record, r.Values], ...] = (
    ("A", 1, r.BIT_ANALOG, {}),
    ("C", 1, r.BIT_CLOCK, {"PLLS": Pointer("PLLs")}),
    ("D", 1, r.BIT_DISPLAY, {}),
    ("I", 1, r.BIT_INIT, {"SCRIPTS": Pointer("scripts")}),
    ("L", 1, r.BIT_LVDS, {}),
    ("M", 2, r.BIT_MEMORY, {"GROUPS": 1, "TYPES": Pointer("memory types")}),
    ("P", 2, r.BIT_PERFORMANCE, {
        "LEVELS": Pointer("levels"), "MEMORY_MAP": Pointer("memory map"), "TIMINGS": Pointer("timings"),
        "VOLTAGES": Pointer("voltages"), "THERMAL": Pointer("thermal"), "VOLTAGE_MAP": Pointer("voltage map"),
        "POWER_BUDGET": Pointer("power budget"), "FAN": Pointer("fan")}),
    ("T", 1, r.BIT_TMDS, {}),
    ("i", 2, r.BIT_INFO, {**_VERSION, "DAC_COMPARE": Pointer("DAC comparison")}),
)  # fmt: skip
"""Name, version, record and content of every entry of the BIT."""


def _bit(image: Image) -> None:
    """The BIOS information table, which drivers find by its signature, and what its entries point to."""
    for name, _, record, values in _BIT:
        image.put(f"BIT {name}", Piece(record.encode(values)))
    head = {"ID": r.BIT_ID, "SIGNATURE": int.from_bytes(r.BIT_SIGNATURE, "little"), "VERSION": 0x0100,
            "HEADER": r.BIT_HEADER.size, "LENGTH": r.BIT_ENTRY.size, "COUNT": len(_BIT)}  # fmt: skip
    plain = b"".join(part for part in r.BIT_HEADER.encode(head) if isinstance(part, bytes))
    parts = [*r.BIT_HEADER.encode({**head, "CHECKSUM": -sum(plain) & 0xFF})]
    for name, version, record, _ in _BIT:
        parts += r.BIT_ENTRY.encode(
            {"NAME": ord(name), "VERSION": version, "LENGTH": record.size, "DATA": Pointer(f"BIT {name}")}
        )
    image.put("BIT", Piece(tuple(parts)))


def build(vendor: int, profile: Profile) -> bytes:
    """Return an image of 4 KiB whose bytes sum to 0.

    Parameters
    ----------
    vendor : int
        PCI vendor that the image names.
    profile : Profile
        The product: its PCI device, clocks, voltages, memory and power.
    """
    image = Image(IMAGE_SIZE)
    image.put("header", header(IMAGE_SIZE), at=0)
    image.put("DCB pointer", Piece((Pointer("DCB"),)), at=_DCB_POINTER_AT)
    image.put("PCIR", pcir(vendor, profile.device, _CLASS_VGA, IMAGE_SIZE), at=_PCIR_AT)
    image.put(
        "name",
        Piece((f"{profile.name} VGA BIOS, made by gpuvm".encode("ascii") + b"\0",)),
        at=_FIRST_TABLE_AT,
    )
    image.put("DAC comparison", Piece(r.DAC_COMPARE.encode({"HEADER": 4})))
    _devices(image, profile)
    _memory(image, profile)
    _performance(image, profile)
    for number, steps in enumerate(SCRIPTS):
        image.put(f"script {number}", script.encode(steps), align=1)
    ends: tuple[bytes | Pointer, ...] = (
        *(Pointer(f"script {number}") for number in range(len(SCRIPTS))),
        bytes(2),
    )
    image.put("scripts", Piece(ends))
    _bit(image)
    return image.finish()
