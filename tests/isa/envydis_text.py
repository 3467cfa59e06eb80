"""What an envydis line says, as an `Instruction`: a reader of envydis's language that knows nothing of
gpuvm's tables.

envydis's own names and order are in its gf100 grammar; here each mnemonic is translated by hand. Only what is
said is set: a modifier that the line does not mention must be neutral (see `NEUTRAL`). Register 63 and
predicate 7 are written as the numbers 0 and 1, so a `Zero` stands for "RZ or the immediate 0".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gpuvm.isa.instruction import Const, Imm, Instruction, Mem, Operand, Pred, Reg, Special, Target, Value

NEUTRAL: dict[str, Value] = {
    "rnd": "RN",
    "cmp": "",
    "bop": "AND",
    "bop0": "AND",
    "type": "S32",
    "atype": "S32",
    "btype": "S32",
    "dtype": "",
    "stype": "",
    "scale": "",
    "range": "",
    "mode": "",
    "lanes": 15,
    "part": "B0",
    "cache": "",
    "size": "32",
    "op": "",
    "test": "T",
    "merge": "",
    "asel": "",
    "bsel": "",
    "dmask": "",
    "shift": "",
    "lod": "",
    "mask": "NONE",
    "dim": "",
    "ldu_size": "32",
    "offsets": "",
    "ign": 0,
    "at": "",
    "fmt": "",
}
"""What a modifier is where the line does not mention it; anything else is off."""

UNSAID = {"ign", "top"}
"""Modifiers that envydis does not show: the guard bits of operations that have no guard, and which short
immediate.
"""

NAMED_SPECIALS = {
    "laneid": 0,
    "nphysid": 2,
    "physid": 3,
    **{f"pm{i}": 4 + i for i in range(8)},
    "vtxcnt": 0x10,
    "invoc": 0x11,
    "ydir": 0x12,
    "thread_kill": 0x13,
    "tid": 0x20,
    "tidx": 0x21,
    "tidy": 0x22,
    "tidz": 0x23,
    "launcharg": 0x24,
    "ctaidx": 0x25,
    "ctaidy": 0x26,
    "ctaidz": 0x27,
    "ntid": 0x28,
    "ntidx": 0x29,
    "ntidy": 0x2A,
    "ntidz": 0x2B,
    "gridid": 0x2C,
    "nctaidx": 0x2D,
    "nctaidy": 0x2E,
    "nctaidz": 0x2F,
    "swinbase": 0x30,
    "swinsz": 0x31,
    "smemsz": 0x32,
    "smembanks": 0x33,
    "lwinbase": 0x34,
    "lwinsz": 0x35,
    "lpossz": 0x36,
    "lnegstart": 0x37,
    "lanemask_eq": 0x38,
    "lanemask_lt": 0x39,
    "lanemask_le": 0x3A,
    "lanemask_gt": 0x3B,
    "lanemask_ge": 0x3C,
    "trapstat": 0x40,
    "warperr": 0x42,
    "clock": 0x50,
    "clockhi": 0x51,
}


@dataclass(frozen=True)
class Zero:
    """A written 0: register 63, or an immediate that is 0."""

    neg: bool = False
    abs: bool = False
    inv: bool = False


@dataclass(frozen=True)
class Number:
    """A written number other than 0, as it stands; the operand's width is not said."""

    value: int
    neg: bool = False
    abs: bool = False
    inv: bool = False


@dataclass(frozen=True)
class Run:
    """Registers that need not be consecutive in the text: `#:$r4:#:$r5`; how many, and the first one that is
    named.
    """

    names: tuple[int | None, ...]


Expected = Operand | Zero | Number | Run
FLOAT_TESTS = {
    "false": "F",
    "lt": "LT",
    "eq": "EQ",
    "le": "LE",
    "gt": "GT",
    "ne": "NE",
    "ge": "GE",
    "num": "NUM",
    "nan": "NAN",
    "ltu": "LTU",
    "equ": "EQU",
    "leu": "LEU",
    "gtu": "GTU",
    "neu": "NEU",
    "geu": "GEU",
    "true": "T",
}
FLAG_TESTS = {
    "never": "F",
    "l": "LT",
    "e": "EQ",
    "le": "LE",
    "g": "GT",
    "lg": "NE",
    "ge": "GE",
    "lge": "NUM",
    "u": "NAN",
    "lu": "LTU",
    "eu": "EQU",
    "leu": "LEU",
    "gu": "GTU",
    "lgu": "NEU",
    "geu": "GEU",
    "true": "T",
    "no": "OFF",
    "nc": "LO",
    "ns": "SFF",
    "na": "LS",
    "a": "HI",
    "s": "SFT",
    "c": "HS",
    "o": "OFT",
}
SIZES = {
    "u8": "U8",
    "s8": "S8",
    "u16": "U16",
    "s16": "S16",
    "b32": "32",
    "b64": "64",
    "b96": "96",
    "b128": "128",
}
COUNTS = {"64": 2, "96": 3, "128": 4}
ROUNDS = {
    "rn": "RN",
    "rm": "RM",
    "rp": "RP",
    "rz": "RZ",
    "rni": "ROUND",
    "rmi": "FLOOR",
    "rpi": "CEIL",
    "rzi": "TRUNC",
}
SPACES = {"g": "generic", "s": "shared", "l": "local", "a": "attribute", "p": "patch", "pix": "pixel"}
INTEGERS = ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64")


class UnknownText(Exception):
    """The reader does not know this line."""


class Reader:
    """Words of one line, taken from the left."""

    def __init__(self, text: str) -> None:
        text = re.sub(r"([()])", r" \1 ", text)
        text = re.sub(r"\[([^\]]*)\]", lambda m: "[" + m[1].replace(" ", "") + "]", text)
        self.words = text.split()
        self.at = 0
        self.mods: dict[str, Value] = {}

    def peek(self) -> str:
        return self.words[self.at] if self.at < len(self.words) else ""

    def next(self) -> str:
        if self.at >= len(self.words):
            raise UnknownText("the line ends early")
        self.at += 1
        return self.words[self.at - 1]

    def take(self, word: str) -> bool:
        if self.peek() == word:
            self.at += 1
            return True
        return False

    def need(self, word: str) -> None:
        if not self.take(word):
            raise UnknownText(f"{word} expected, {self.peek()} found")

    def among(self, choices: dict[str, str], mod: str, *, must: bool = True) -> str | None:
        word = self.peek()
        if word in choices:
            self.at += 1
            self.mods[mod] = choices[word]
            return word
        if must:
            raise UnknownText(f"{mod} expected, {word} found")
        return None

    def flag(self, word: str, mod: str | None = None) -> bool:
        found = self.take(word)
        if found:
            self.mods[mod or word] = True
        return found

    # Operands.

    def reg(self) -> Reg | Zero:
        word = self.next()
        if word == "0x0":
            return Zero()
        match = re.fullmatch(r"\$r(\d+)([dq]?)", word)
        if match is None:
            raise UnknownText(f"a register expected, {word} found")
        return Reg(int(match[1]), {"": 1, "d": 2, "q": 4}[match[2]])

    def pred(self) -> Pred:
        inverted = False
        bracket = False
        if self.peek() == "(":
            self.at += 1
            bracket = True
        if self.take("not"):
            inverted = True
        word = self.next()
        if bracket:
            self.need(")")
        if word == "0x1":
            return Pred(7, inverted)
        match = re.fullmatch(r"\$p(\d)", word)
        if match is None:
            raise UnknownText(f"a predicate expected, {word} found")
        return Pred(int(match[1]), inverted)

    def source(self) -> Expected:
        """Register, constant or number, with neg, abs, not in front."""
        neg = self.take("neg")
        abs_ = self.take("abs")
        inv = self.take("not")
        word = self.peek()
        if re.fullmatch(r"-?0x[0-9a-f]+", word):
            self.at += 1
            value = int(word, 16)
            return Number(value, neg, abs_, inv) if value else Zero(neg, abs_, inv)
        match = re.fullmatch(r"c(\d+)\[(-?0x[0-9a-f]+)\]", word)
        if match:
            self.at += 1
            return Const(int(match[1]), int(match[2], 16), neg, abs_, inv)
        found = self.reg()
        if isinstance(found, Zero):
            return Zero(neg, abs_, inv)
        return Reg(found.index, found.count, neg, abs_, inv)

    def memory(self) -> Mem:
        word = self.next()
        match = re.fullmatch(r"([a-z]+)(\d*)\[(?:\$r(\d+)(d?))?([+-]?0x[0-9a-f]+)?\]", word)
        if match is None:
            raise UnknownText(f"an address expected, {word} found")
        base = Reg(63 if match[3] is None else int(match[3]), 2 if match[4] else 1)
        space = "const" if match[1] == "c" else SPACES[match[1]]
        offset = int(match[5] or "0", 16)
        if offset >= 1 << 63:
            offset -= 1 << 64
        return Mem(space, base, offset, int(match[2] or 0))

    def run(self) -> Run:
        if self.take("("):
            self.need(")")
            return Run(())
        parts = self.next().split(":")
        return Run(tuple(None if part == "#" else int(part[2:]) for part in parts))

    def carry_out(self) -> None:
        self.flag("$c", "cc")

    def carry_in(self) -> None:
        self.flag("$c", "x")

    def signed(self, mod: str) -> None:
        self.among({"u32": "U32", "s32": "S32"}, mod)


def negated(operand: Expected) -> Expected:
    if isinstance(operand, Zero):
        return Zero(not operand.neg, operand.abs, operand.inv)
    if isinstance(operand, Number):
        return Number(operand.value, not operand.neg, operand.abs, operand.inv)
    if isinstance(operand, Reg):
        return Reg(operand.index, operand.count, not operand.neg, operand.abs, operand.inv)
    if isinstance(operand, Const):
        return Const(operand.bank, operand.offset, not operand.neg, operand.abs, operand.inv)
    raise UnknownText("this operand has no sign")


@dataclass
class Reading:
    """What a line says."""

    name: str
    dst: list[Expected]
    src: list[Expected]
    mods: dict[str, Value]
    guard: Pred
    sync: bool


def _signs(op: str, a: Expected, b: Expected, mods: dict[str, Value]) -> tuple[Expected, Expected]:
    """envydis's add, sub, subr and addpo as signs."""
    if op == "sub":
        return a, negated(b)
    if op == "subr":
        return negated(a), b
    if op == "addpo":
        mods["po"] = True
    return a, b


def _combine(r: Reader) -> Pred:
    if r.peek() in ("and", "or", "xor"):
        r.mods["bop"] = r.next().upper()
        return r.pred()
    return Pred(7)


def _set(r: Reader, word: int, size: int, video: bool) -> tuple[str, list[Expected], list[Expected]]:
    """`set`: of floats, integers, the condition code, predicates or video parts, into a register or
    predicates.
    """
    left_out = not word >> 26 & 0x3F if size == 8 else word & 0x0601C000 == 0x0001C000
    r.flag("ftz")
    into_register = r.peek() in ("b32", "f32")
    dst: list[Expected] = []
    if into_register:
        if r.next() == "f32":
            r.mods["bf"] = True
        dst.append(r.reg())
        r.carry_out()
    else:
        dst.append(r.pred())
        dst.append(r.pred() if size == 8 else Pred(7))
    suffix = "" if into_register else "P"
    rest = r.words[r.at :]
    if "$c" in rest[:2] and rest[0] in FLAG_TESTS:
        r.among(FLAG_TESTS, "test")
        r.need("$c")
        return f"CSET{suffix}", dst, [_combine(r)]
    if rest[0] in ("not", "0x1") or rest[0].startswith("$p"):
        first: list[Expected] = [r.pred()]
        # Where the second predicate's six bits are 0 (`and $p0`) a long form leaves it out, so one operator
        # is
        # the second one; a short form leaves out `and $p7`.
        operators = [w for w in rest if w in ("and", "or", "xor")]
        if left_out:
            first.append(Pred(7 if size == 4 else 0))
        elif operators:
            r.mods["bop0"] = r.next().upper()
            first.append(r.pred())
        return f"PSET{suffix}", dst, [*first, _combine(r)]
    r.among(FLOAT_TESTS, "cmp")
    if r.peek() in ("f32", "f64"):
        kind = {"f32": "F", "f64": "D"}[r.next()]
        sources = [r.source(), r.source()]
        return f"{kind}SET{suffix}", dst, [*sources, _combine(r)]
    if not video:
        r.signed("type")
        sources = [r.source(), r.source()]
        r.carry_in()
        return f"ISET{suffix}", dst, [*sources, _combine(r)]
    _part(r, "asel")
    r.signed("atype")
    a = r.source()
    _part(r, "bsel")
    r.signed("btype")
    return f"VSET{suffix}", dst, [a, r.source(), _combine(r)]


def _part(r: Reader, mod: str) -> None:
    if re.fullmatch(r"[bh]\d+", r.peek()):
        r.mods[mod] = r.next().upper()


VIDEO = re.compile(r"v(add|sub|subr|addpo|avg|min|max|absdiff|set|shr|shl|sel|mad)([24]?)")


def _video(r: Reader, op: str, lanes: str, size: int) -> tuple[str, list[Expected], list[Expected]]:
    mods = r.mods
    if op == "mad":
        sign = "add"
        if r.peek() in ("add", "sub", "subr", "addpo"):
            sign = r.next()
        r.flag("sat")
        if r.peek() in ("shr7", "shr15"):
            mods["shift"] = r.next().upper()
        dst: list[Expected] = [r.reg()]
        r.carry_out()
        if size == 4:
            r.signed("atype")
            _part(r, "asel")
            a: Expected = r.reg()
            r.signed("btype")
            _part(r, "bsel")
            return "VMAD", dst, [a, r.source()]
        _part(r, "asel")
        r.signed("atype")
        a = r.source()
        _part(r, "bsel")
        r.signed("btype")
        b = r.source()
        # As for IMAD: the sign of the first factor is the product's.
        product, c = _signs(sign, a, r.source(), mods)
        return "VMAD", dst, [product, b, c]
    wrap = {"clamp": False, "wrap": True}.get(r.peek())
    if op in ("shr", "shl") and wrap is not None:
        r.next()
        if wrap:
            mods["w"] = True
    r.flag("sat")
    if lanes:
        merges = {"simd_min": "SIMD_MIN", "simd_max": "SIMD_MAX", "add": "ACC", "min": "MIN", "max": "MAX"}
        r.among(merges, "merge", must=False)
        everything = "XYZW" if lanes == "4" else "XY"
        mods["dmask"] = everything
        if r.peek() == "none":
            r.next()
            mods["dmask"] = ""
        elif re.fullmatch(r"[xyzw]+", r.peek()):
            mods["dmask"] = r.next().upper()
    else:
        merges = {"h1": "H1", "h0": "H0", "b0": "B0", "b2": "B2", "add": "ACC", "min": "MIN", "max": "MAX"}
        r.among(merges, "merge", must=False)
    types = {word: word.upper() for word in INTEGERS}
    if op != "set":
        r.among(types, "dtype")
    dst = [r.reg()]
    r.carry_out()
    if op == "set":
        r.among(FLOAT_TESTS, "cmp")
    if size == 4:
        r.among(types, "atype")
        a = r.source()
        r.among(types, "btype")
        b = r.source()
        if op == "subr":
            a, op = negated(a), "add"
        return f"V{op.upper()}{lanes}", dst, [a, b]
    _part(r, "asel")
    r.among(types, "atype")
    a = r.source()
    _part(r, "bsel")
    if not (lanes and op in ("shr", "shl")):
        r.among(types, "btype")
    b = r.source()
    if op in ("add", "sub", "subr", "addpo"):
        a, b = _signs(op, a, b, mods)
        op = "add"
    if op in ("min", "max"):
        if op == "max":
            mods["mx"] = True
        op = "mnmx"
    name = {"avg": "VAVRG"}.get(op, f"V{op.upper()}")
    last: Expected = r.pred() if op == "sel" else r.source()
    return f"{name}{lanes}", dst, [a, b, last]


def _texture(r: Reader, op: str) -> tuple[str, list[Expected], list[Expected]]:
    mods = r.mods
    name = {
        "tex": "TEX",
        "texfetch": "TLD",
        "texgather": "TLD4",
        "texquerylod": "TMML",
        "texquery": "TXQ",
        "texcsaa": "TEXCSAA",
        "texgrad": "TXD",
    }[op]
    if r.peek() in ("t", "p"):
        mods["mode"] = r.next().upper()
    lods = {"lauto": "", "lzero": "LZ", "lbias": "LB", "llod": "LL", "lbiasa": "LBA", "lloda": "LLA"}
    r.among(lods, "lod", must=False)
    r.flag("shadow", "dc")
    r.flag("cl")
    r.flag("ms")
    if name == "TLD4":
        r.among({"off": "AOFFI", "off8": "PTP"}, "offsets", must=False)
    else:
        r.flag("off", "aoffi")
    r.flag("live")
    r.take("all")
    r.take("dfp")
    r.flag("dall", "ndv")
    if name == "TLD4":
        r.among({"r": "R", "g": "G", "b": "B", "a": "A"}, "channel")
    run = r.run()
    mods["mask"] = "".join(c for c, n in zip("RGBA", run.names, strict=True) if n is not None)
    if name == "TXQ":
        queries = {
            "tdims": "DIMENSION",
            "ttype": "TEXTURE_TYPE",
            "tsamplepos": "SAMPLE_POS",
            "sfilter": "FILTER",
            "slod": "LOD",
            "swrap": "WRAP",
            "sbcolor": "BORDER_COLOR",
        }
        r.among(queries, "query")
    elif name != "TEXCSAA":
        shapes = {
            "t1d": "1D",
            "a1d": "ARRAY_1D",
            "t2d": "2D",
            "a2d": "ARRAY_2D",
            "t3d": "3D",
            "tcube": "CUBE",
            "acube": "ARRAY_CUBE",
        }
        r.among(shapes, "dim")
    r.flag("ind")
    units: list[Expected] = []
    for letter in "ts":
        word = r.next()
        if not word.startswith(f"${letter}"):
            raise UnknownText(f"${letter} expected")
        number = int(word[2:])
        units.append(Number(number) if number else Zero())
    sources: list[Expected] = []
    while r.peek():
        sources.append(r.source() if name == "TXQ" else r.run())
    return name, [run], [*sources, *units]


def _surface(r: Reader, op: str) -> tuple[str, list[Expected], list[Expected]]:
    mods = r.mods
    dst: list[Expected] = []
    data: list[Expected] = []
    caches = {"ca": "CA", "cg": "CG", "cs": "CS", "cv": "CV", "wb": "WB", "wt": "WT"}
    clamps = {"zero": "IGN", "clamp": "NEAR", "trap": "TRAP"}

    def surface() -> Expected:
        word = r.next()
        match = re.fullmatch(r"img\[(?:\$r(\d+)|0x([0-9a-f]+))\]|\$g(\d)", word)
        if match is None:
            raise UnknownText(f"a surface expected, {word} found")
        if match[1]:
            return Mem("image", Reg(int(match[1])), 0)
        number = int(match[2] or match[3], 16)
        # A register form's RZ is written as `img[0x0]` too.
        return Number(number) if number else Zero()

    if op == "suq":
        queries = {
            "rank": "RANK",
            "pixfmt": "PIXFMT",
            "smplsz": "SMPLSZ",
            "dim": "DIM",
            "rgba": "RGBA",
            "blksz": "BLKSZ",
        }
        r.among(queries, "query")
        return "SUQ", [r.reg()], [surface()]
    if op == "suredp":
        mods["op"] = r.next().upper()
        r.among(clamps, "clamp")
        where, place = surface(), r.run()
        mods["coords"] = str(len(place.names))
        return "SURED", [], [where, place, r.reg()]
    mods["fmt"] = op[-1].upper()
    name = {"suld": "SULD", "sust": "SUST", "sulea": "SULEA"}[op[:-1]]
    if name == "SULD":
        mods["size"] = SIZES[r.next()]
        dst.append(r.reg())
    if name == "SULEA":
        dst += [r.pred(), r.reg()]
        mods["size"] = SIZES[r.next()]
    if name != "SULEA":
        r.among(caches, "cache")
    r.among(clamps, "clamp")
    where = surface()
    r.among({"1d": "1D", "2d": "2D", "3d": "3D", "e2d": "E2D"}, "dim")
    place = r.run()
    if op == "sustb":
        mods["mask"] = "RGBA"
        mods["size"] = SIZES[r.next()]
        data.append(r.reg())
    elif op == "sustp":
        run = r.run()
        mods["mask"] = "".join(c for c, n in zip("RGBA", run.names, strict=True) if n is not None)
        data.append(run)
    return name, dst, [where, place, *data]


CONTROL = {
    "joinat": "SSY",
    "prebrk": "PBK",
    "precont": "PCNT",
    "preret": "PRET",
    "prelongjmp": "PLONGJMP",
    "exit": "EXIT",
    "longjmp": "LONGJMP",
    "ret": "RET",
    "discard": "KIL",
    "rtt": "RTT",
    "brk": "BRK",
    "cont": "CONT",
    "quadon": "SAM",
    "quadpop": "RAM",
    "bra": "BRA",
    "call": "CAL",
    "bpt": "BPT",
    "nop": "NOP",
    "pmevent": "PMTRIG",
}


def _control(r: Reader, op: str) -> tuple[str, list[Expected], list[Expected]]:
    name = CONTROL[op]
    if r.take("lim"):
        r.mods["lmt" if op == "bra" else "noinc"] = True
    r.flag("allwarp", "u")
    r.flag("terminate")
    if op == "bpt":
        r.mods["mode"] = r.next().upper()
        return name, [], [r.source()]
    if op == "pmevent":
        return name, [], [r.source()]
    sources: list[Expected] = []
    register = (
        r.reg() if r.peek().startswith("$r") or (r.peek() == "0x0" and len(r.words) - r.at > 1) else None
    )
    relative = r.take("pcrel")
    absolute = r.take("abs")
    word = r.peek()
    if re.match(r"c\d+\[", word):
        memory = r.memory()
        absolute = absolute or not relative
        if memory.base.index != 63 or register is not None:
            name = "BRX" if relative else "JMX"
            return name, [], [memory]
        sources.append(Const(memory.bank, memory.offset & 0xFFFF))
    elif word:
        target = int(r.next(), 16)
        sources.append(Target(target - (1 << 64) if target >= 1 << 63 else target))
    if register is not None:
        return ("JMX" if absolute else "BRX"), [], [register, *sources]
    if absolute:
        name = {"BRA": "JMP", "CAL": "JCAL"}[name]
    return name, [], sources


def _memory(r: Reader, op: str) -> tuple[str, list[Expected], list[Expected]]:
    mods = r.mods
    if op == "ld" and r.peek() in ("add", "min", "max", "inc", "dec", "and", "or", "xor"):
        mods["op"] = r.next().upper()
        mods["type"] = r.next().upper()
        dst = r.reg()
        memory = r.memory()
        return "ATOM", [dst], [memory, r.reg()]
    locked = r.take("lock") or r.take("unlock")
    if op == "ld" and r.peek().startswith("$r"):
        return "VILD", [r.reg()], [r.memory()]
    r.flag("patch")
    size = SIZES[r.next()]
    mods["size"] = size
    caches = {"ca": "CA", "cg": "CG", "cs": "CS", "cv": "CV", "wb": "WB", "wt": "WT"}
    if op == "st":
        r.among(caches, "cache", must=False)
        memory = r.memory()
        name = {"generic": "ST", "local": "STL", "shared": "STS", "attribute": "AST"}[memory.space]
        if locked:
            name = {"ST": "STUL", "STS": "STSUL"}[name]
        if name == "AST":
            data: Expected = r.run() if ":" in r.peek() else r.reg()
            last: list[Expected] = [r.reg()]
            r.flag("unk39", "u57")
            return name, [], [memory, data, *last]
        return name, [], [memory, r.reg()]
    locks: list[Expected] = [r.pred()] if locked else []
    target: Expected = r.run() if ":" in r.peek() else r.reg()
    if r.among(caches, "cache", must=False) is None:
        r.flag("out")
    memory = r.memory()
    name = {"generic": "LD", "local": "LDL", "shared": "LDS", "const": "LDC", "attribute": "ALD"}[
        memory.space
    ]
    if op == "ldu":
        name = "LDU"
    if locked:
        name = {"LD": "LDLK", "LDS": "LDSLK"}[name]
    if name == "LDL" and mods.get("cache") == "CS":
        mods["cache"] = "LU"
    if name == "ALD":
        second = r.reg()
        r.flag("unk39", "u57")
        return name, [target], [memory, second]
    if r.take("ldu"):
        mods["ldu_size"] = SIZES[r.next()]
        other = r.reg()
        uniform = r.memory()
        if uniform.base.count == 2:
            mods["ldu_e"] = True
        return ("LDS_LDU" if name == "LDS" else "LD_LDU"), [target, other], [memory, uniform]
    return name, [*locks, target], [memory]


def read(text: str, word: int, size: int) -> Reading:
    """What an envydis line says; `word` only tells 32-bit immediates (class 2) from others, and guard from
    `never`.

    Raises
    ------
    UnknownText
        The reader does not know this line.
    """
    r = Reader(text)
    mods = r.mods
    while r.peek() in ("B", "C"):
        r.next()
    sync = r.take("join")
    guard = Pred(7)
    if r.take("never"):
        guard = Pred(7, True)
    elif r.peek() == "(" or r.peek().startswith("$p"):
        guard = r.pred()
    if r.peek() in FLAG_TESTS and r.words[r.at + 1 : r.at + 2] == ["$c"]:
        mods["test"] = FLAG_TESTS[r.next()]
        r.need("$c")
    long = "32I" if size == 8 and word & 7 == 2 else ""
    lanes = re.fullmatch(r"l(none|[0123]+)", r.peek())
    if lanes:
        r.next()
        mods["lanes"] = 0 if lanes[1] == "none" else sum(1 << int(lane) for lane in lanes[1])
    op = r.next()
    name, dst, src = _dispatch(r, op, word, size, long)
    if r.peek():
        raise UnknownText(f"{r.peek()} is left over")
    for operand in (*src, *dst):
        if isinstance(operand, Mem) and operand.space == "generic" and operand.base.count == 2:
            mods.setdefault("e", not (name == "LDS_LDU" or (name == "LD_LDU" and operand is not src[0])))
    return Reading(name, dst, src, mods, guard, sync)


def _dispatch(
    r: Reader, op: str, word: int, size: int, long: str
) -> tuple[str, list[Expected], list[Expected]]:
    mods = r.mods
    video = VIDEO.fullmatch(op)
    if video:
        if op == "vset" and (r.peek().startswith("$p") or r.peek() in ("0x1",)):
            return _set(r, word, size, video=True)
        return _video(r, video[1], video[2], size)
    if op.startswith("tex"):
        return _texture(r, op)
    if op in CONTROL:
        return _control(r, op)
    if op in ("min", "max", "minmax"):
        select: Expected = {"min": Pred(7), "max": Pred(7, True)}.get(op) or r.pred()
        r.flag("ftz")
        r.among({"low": "XLO", "med": "XMED", "high": "XHI"}, "range", must=False)
        kind = r.next()
        if kind in ("u32", "s32"):
            mods["type"] = kind.upper()
        dst = r.reg()
        r.carry_out()
        a, b = r.source(), r.source()
        if mods.get("range") in ("XLO", "XMED"):
            r.need("$c")
        return {"f32": "FMNMX", "f64": "DMNMX"}.get(kind, "IMNMX"), [dst], [a, b, select]
    if op == "set":
        return _set(r, word, size, video=False)
    if op == "fma":
        for name in ("ftz", "fmz", "sat"):
            r.flag(name)
        r.among(ROUNDS, "rnd", must=False)
        kind = r.next()
        dst = r.reg()
        r.carry_out()
        return ("FFMA" if kind == "f32" else "DFMA") + long, [dst], [r.source(), r.source(), r.source()]
    if op == "slct":
        r.flag("ftz")
        r.need("b32")
        dst = r.reg()
        a, b = r.source(), r.source()
        r.among(FLOAT_TESTS, "cmp")
        kind = r.next()
        if kind != "f32":
            mods["type"] = kind.upper()
        return ("FCMP" if kind == "f32" else "ICMP"), [dst], [a, b, r.source()]
    if op == "quadop":
        r.flag("ftz")
        r.among(ROUNDS, "rnd")
        r.need("f32")
        for lane in range(4):
            mods[f"op{lane}"] = r.next().upper()
        dst = r.reg()
        r.carry_out()
        if r.next() == "dall":
            mods["ndv"] = True
        which = {"l0": "0000", "l1": "1111", "l2": "2222", "l3": "3333", "dx": "1032", "dy": "2301"}
        r.among(which, "lane")
        return "FSWZADD", [dst], [r.source(), r.source()]
    if op == "add" and r.peek() == "u64":
        r.next()
        mods["op"], mods["type"] = "ADD", "U64"
        return "RED", [], [r.memory(), r.reg()]
    if op in ("add", "sub", "subr", "addpo"):
        return _add(r, op, long)
    if op == "mul":
        return _mul(r, long, size)
    if op in ("presin", "preex2"):
        mods["op"] = {"presin": "SINCOS", "preex2": "EX2"}[op]
        r.need("f32")
        return "RRO", [r.reg()], [r.source()]
    functions = {
        "cos": "COS",
        "sin": "SIN",
        "ex2": "EX2",
        "lg2": "LG2",
        "rcp": "RCP",
        "rsqrt": "RSQ",
        "rcp64h": "RCP64H",
        "rsqrt64h": "RSQ64H",
    }
    if op in functions:
        mods["op"] = functions[op]
        r.flag("sat")
        r.take("f32")
        return "MUFU", [r.reg()], [r.source()]
    logic = {"and": "AND", "or": "OR", "xor": "XOR", "mov2": "PASS_B"}
    if op in logic:
        mods["op"] = logic[op]
        r.need("b32")
        dst = r.reg()
        r.carry_out()
        a, b = r.source(), r.source()
        r.carry_in()
        return "LOP" + long, [dst], [a, b]
    if op == "mov":
        return _mov(r, long)
    if op in ("ins", "sad"):
        if op == "sad":
            r.signed("type")
        else:
            r.need("b32")
        dst = r.reg()
        r.carry_out()
        return {"ins": "BFI", "sad": "ISAD"}[op], [dst], [r.source(), r.source(), r.source()]
    if op in ("shl", "shr"):
        r.flag("rev", "brev")
        if not r.take("b32"):
            r.signed("type")
        dst = r.reg()
        r.carry_out()
        a = r.source()
        if r.take("wrap"):
            mods["w"] = True
        else:
            r.take("clamp")
        b = r.source()
        r.carry_in()
        return op.upper(), [dst], [a, b]
    if op == "ext":
        r.flag("rev", "brev")
        r.signed("type")
        dst = r.reg()
        r.carry_out()
        return "BFE", [dst], [r.source(), r.source()]
    if op == "bfind":
        r.flag("shiftamt", "sh")
        r.signed("type")
        dst = r.reg()
        r.carry_out()
        return "FLO", [dst], [r.source()]
    if op == "popc":
        return "POPC", [r.reg()], [r.source(), r.source()]
    if op == "cvt":
        return _cvt(r)
    if op == "selp":
        r.need("b32")
        return "SEL", [r.reg()], [r.source(), r.source(), r.pred()]
    if op == "prmt":
        modes = {name: name.upper() for name in ("f4e", "b4e", "rc8", "ecl", "ecr", "rc16")}
        r.among(modes, "mode", must=False)
        r.need("b32")
        return "PRMT", [r.reg()], [r.source(), r.source(), r.source()]
    if op == "lepc":
        return "LEPC", [r.reg()], []
    if op == "vote":
        mods["op"] = {"all": "ALL", "any": "ANY", "uni": "EQ"}[r.next()]
        return "VOTE", [r.reg(), r.pred()], [r.pred()]
    if op == "bar":
        return _bar(r, size)
    if op == "red":
        mods["op"] = r.next().upper()
        mods["type"] = r.next().upper()
        return "RED", [], [r.memory(), r.reg()]
    if op in ("exch", "cas"):
        mods["op"] = op.upper()
        mods["type"] = {"b32": "U32", "b64": "U64"}[r.next()]
        dst = r.reg()
        memory = r.memory()
        data = [r.reg() for _ in range(2 if op == "cas" else 1)]
        return "ATOM", [dst], [memory, *data]
    if op.startswith("su"):
        return _surface(r, op)
    if op in ("ld", "ldu", "st"):
        return _memory(r, op)
    if op == "cctl":
        actions = {
            "query1": "QRY1",
            "pf1": "PF1",
            "pf15": "PF1_5",
            "pf2": "PF2",
            "wb": "WB",
            "iv": "IV",
            "ivall": "IVALL",
            "rs": "RS",
        }
        r.among(actions, "op")
        r.among({"u": "U", "c": "C", "i": "I"}, "cache", must=False)
        dst = r.reg()
        memory = r.memory()
        return ("CCTL" if memory.space == "generic" else "CCTLL"), [dst], [memory]
    if op == "membar":
        r.among({"cta": "CTA", "gl": "GL", "sys": "SYS"}, "level")
        return "MEMBAR", [], []
    if op == "interp":
        modes = {"pass": "PASS", "mul": "MUL", "flat": "FLAT", "sc": "SC"}
        r.among(modes, "mode")
        r.flag("sat")
        r.take("f32")
        dst = r.reg()
        r.among({"cent": "CENTROID", "off": "OFFSET"}, "at", must=False)
        memory = r.memory()
        return "IPA", [dst], [memory, r.reg(), r.reg() if size == 8 else Zero()]
    if op == "pixinfo":
        dst, lock = r.reg(), r.pred()
        queries = {
            "samplecnt": "COUNT",
            "covmask": "COVMASK",
            "covered": "COVERED",
            "offset": "OFFSET",
            "cent_offset": "CENTROID_OFFSET",
            "sampleid": "MY_INDEX",
        }
        r.among(queries, "query")
        return "PIXLD", [dst, lock], [r.memory()]
    if op == "out":
        r.flag("emit")
        r.flag("restart", "cut")
        return "OUT", [r.reg()], [r.reg(), r.source()]
    raise UnknownText(f"{op} is not known")


def _add(r: Reader, op: str, long: str) -> tuple[str, list[Expected], list[Expected]]:
    mods = r.mods
    r.flag("ftz")
    r.flag("sat")
    rounded = r.among(ROUNDS, "rnd", must=False)
    kind = r.next() if r.peek() in ("f32", "f64", "b32") else ""
    del rounded
    dst = r.reg()
    r.carry_out()
    if r.take("("):
        inner = r.next()
        if inner == "mul":
            r.flag("high", "hi")
            r.signed("atype")
            a = r.source()
            r.signed("btype")
            b = r.source()
            r.need(")")
            product, c = _signs(op, a, r.source(), mods)
            r.carry_in()
            return "IMAD" + long, [dst], [product, b, c]
        a, amount = r.source(), r.source()
        r.need(")")
        a, b = _signs(op, a, r.source(), mods)
        return "ISCADD" + long, [dst], [a, b, amount]
    a, b = r.source(), r.source()
    if kind == "b32":
        r.carry_in()
        a, b = _signs(op, a, b, mods)
        return "IADD" + long, [dst], [a, b]
    return {"f32": "FADD", "f64": "DADD"}[kind] + long, [dst], [a, b]


def _mul(r: Reader, long: str, size: int) -> tuple[str, list[Expected], list[Expected]]:
    mods = r.mods
    scales = {"div2": "D2", "div4": "D4", "div8": "D8", "mul8": "M8", "mul4": "M4", "mul2": "M2"}
    r.among(scales, "scale", must=False)
    for name in ("fmz", "ftz", "sat"):
        r.flag(name)
    r.among(ROUNDS, "rnd", must=False)
    negative = r.take("neg")
    r.flag("high", "hi")
    if r.peek() in ("f32", "f64"):
        kind = r.next()
        dst = r.reg()
        r.carry_out()
        a, b = r.source(), r.source()
        return ("FMUL" if kind == "f32" else "DMUL") + long, [dst], [negated(a) if negative else a, b]
    dst = r.reg()
    r.carry_out()
    r.signed("atype")
    a = r.source()
    r.signed("btype")
    del mods, size
    return "IMUL" + long, [dst], [a, r.source()]


def _mov(r: Reader, long: str) -> tuple[str, list[Expected], list[Expected]]:
    mods = r.mods
    if r.take("b32"):
        dst = r.reg()
        word = r.peek()
        special = re.fullmatch(r"\$([a-z_]+\d*)", word)
        if word.startswith("$sr"):
            r.next()
            return "S2R", [dst], [Special(int(word[3:]), "")]
        if special and special[1] in NAMED_SPECIALS:
            r.next()
            return "S2R", [dst], [Special(NAMED_SPECIALS[special[1]], "")]
        return "MOV" + long, [dst], [r.source()]
    if r.flag("high", "hi") or r.peek() == "$flags":
        r.need("$flags")
        a = r.reg()
        r.need("mask")
        return "R2P", [], [a, r.source()]
    dst = r.reg()
    kept: Expected = Zero()
    if r.peek().startswith("$r"):
        kept = r.reg()
        r.need("or")
    if r.flag("high", "hi"):
        mods["hi"] = True
    r.need("$flags")
    r.need("mask")
    return "P2R", [dst], [kept, r.source()]


def _cvt(r: Reader) -> tuple[str, list[Expected], list[Expected]]:
    mods = r.mods
    r.flag("ftz")
    r.flag("sat")
    r.among(ROUNDS, "rnd", must=False)
    dtype = r.next()
    dst = r.reg()
    r.carry_out()
    neg, abs_ = r.take("neg"), r.take("abs")
    stype = r.next()
    mods["dtype"], mods["stype"] = dtype.upper(), stype.upper()
    width = int(stype[1:])
    number: int | None = None
    before = r.peek() if stype[0] != "f" or dtype[0] != "f" else ""
    if width < 32 and before and re.fullmatch(r"0x[0-3]", before) and len(r.words) - r.at == 2:
        number = int(r.next(), 16)
    operand = r.source()
    if width < 32 and number is None and r.peek():
        number = int(r.next(), 16)
    if number:
        mods["part"] = f"B{number if width == 8 else 2 * number}"
    if neg:
        operand = negated(operand)
    if abs_:
        operand = type(operand)(
            **{f: getattr(operand, f) for f in operand.__dataclass_fields__} | {"abs": True}
        )
    kind = ("F" if stype[0] == "f" else "I") + "2" + ("F" if dtype[0] == "f" else "I")
    return kind, [dst], [operand]


def _bar(r: Reader, size: int) -> tuple[str, list[Expected], list[Expected]]:
    mods = r.mods
    action = r.next()
    if action == "read":
        return "B2R", [r.reg()], [r.source()]
    if size == 4:
        mods["mode"] = {"sync": "SYNC", "arrive": "ARV"}[action]
        mods["op"] = "POPC"
        return "BAR", [], [r.source(), Zero()]
    lock, dst = r.pred(), r.reg()
    barrier, count, pred = r.source(), r.source(), r.pred()
    mods["op"] = "POPC"
    plain = lock == Pred(7) and isinstance(dst, Zero) and pred == Pred(7)
    if action == "arrive":
        mods["mode"] = "ARV"
        if not plain:
            raise UnknownText("an arrival with results")
        return "BAR", [], [barrier, count]
    if action == "popc" and plain:
        mods["mode"] = "SYNC"
        return "BAR", [], [barrier, count]
    mods["mode"], mods["op"] = "RED", action.upper()
    return "BAR", [dst, lock], [barrier, count, pred]


# Comparison.


def _same_operand(expected: Expected, got: Operand) -> bool:
    if isinstance(expected, Run):
        named = [n for n in expected.names if n is not None]
        if not isinstance(got, Reg) or got.count != len(named):
            return False
        return not named or named == list(range(got.index, got.index + got.count))
    if isinstance(expected, Zero):
        if isinstance(got, Reg):
            return got.index == 63 and (got.neg, got.abs, got.inv) == (
                expected.neg,
                expected.abs,
                expected.inv,
            )
        if isinstance(got, Mem):
            return got == Mem("image", Reg(63), 0)
        return got == Imm(0, expected.neg, expected.abs, expected.inv)
    if isinstance(expected, Number):
        if not isinstance(got, Imm) or (got.neg, got.abs, got.inv) != (
            expected.neg,
            expected.abs,
            expected.inv,
        ):
            return False
        return got.value in (expected.value & 0xFFFFFFFF, expected.value & 0xFFFFFFFFFFFFFFFF)
    if isinstance(expected, Reg) and isinstance(got, Reg):
        plain = (got.index, got.neg, got.abs, got.inv)
        # envydis writes the pairs of ATOM's U64 and the runs of attributes as their first register.
        return plain == (expected.index, expected.neg, expected.abs, expected.inv) and (
            expected.count in (1, got.count)
        )
    if isinstance(expected, Special):
        return isinstance(got, Special) and got.index == expected.index
    return expected == got


def difference(reading: Reading, got: Instruction) -> str:
    """Why an instruction is not what the line says, "" if it is."""
    if reading.name != got.name:
        return f"operation {got.name}, not {reading.name}"
    if (reading.guard, reading.sync) != (got.guard, got.sync):
        return "guard or .S"
    for what, expected, operands in (("destination", reading.dst, got.dst), ("source", reading.src, got.src)):
        if len(expected) != len(operands):
            return f"{len(operands)} {what}s, not {len(expected)}"
        for one, other in zip(expected, operands, strict=True):
            if not _same_operand(one, other):
                return f"{what} {other}, not {one}"
    unknown = set(reading.mods) - set(got.mods)
    said = {name for name in unknown if reading.mods[name] not in (False, NEUTRAL.get(name))}
    if said:
        return f"modifiers {said} are missing"
    for name, value in got.mods.items():
        expected_value = reading.mods.get(name, NEUTRAL.get(name, False))
        unsaid = got.size == 4 and name == "cache" and value in ("CA", "WB")
        if value != expected_value and not unsaid and name not in UNSAID:
            return f"{name} {value!r}, not {expected_value!r}"
    return ""
