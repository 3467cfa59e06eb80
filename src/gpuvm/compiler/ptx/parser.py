"""PTX tokens to a syntax tree (`ast.Module`): a recursive-descent parser over declarations, bodies and
operands.
"""

from __future__ import annotations

import struct

from gpuvm.compiler.errors import CompileError, unsupported
from gpuvm.compiler.ptx import ast
from gpuvm.compiler.ptx.constants import Expression, number
from gpuvm.compiler.ptx.lexer import Token, tokenize

SPACES = {".global": "global", ".const": "const", ".shared": "shared", ".local": "local", ".param": "param"}
TYPES = frozenset((
    *(f"{k}{n}" for k in "bus" for n in (8, 16, 32, 64)),
    "b128", "f16", "f16x2", "bf16", "bf16x2", "f32", "f64", "pred", "texref", "samplerref", "surfref",
))  # fmt: skip
LINKAGE = frozenset((".extern", ".visible", ".weak", ".common"))
MODULE_LEVEL = LINKAGE | {".func", ".entry", ".global", ".const", ".shared", ".local", ".file", ".section"}
# Directives with numbers that say something about a kernel.
TUNING = frozenset((".maxntid", ".reqntid", ".minnctapersm", ".maxnreg", ".maxnctapersm", ".noreturn"))
MAXIMUM_DEPTH = 64


class Parser(Expression):
    """State: the tokens and a position. Each method eats what its name says."""

    def __init__(self, text: str) -> None:
        super().__init__(tokenize(text))
        self.depth = 0

    # ---- module level

    def module(self) -> ast.Module:
        module = ast.Module()
        explicit = False
        while self.kind:
            token = self.next()
            word = token.text
            if token.kind == ";":
                continue
            if token.kind != "w":
                raise self.wrong("a directive", token)
            if word == ".version":
                major, _, minor = self.next().text.partition(".")
                if not (major.isdigit() and minor.isdigit()):
                    raise CompileError(f"a PTX version reads like 8.8, not {major}.{minor}", token.line)
                module.version = (int(major), int(minor))
            elif word == ".target":
                module.target = self.expect("w").text
                while self.accept(","):
                    self.expect("w")
            elif word == ".address_size":
                module.address_size = self.plain_integer()
                explicit = True
                if module.address_size not in (32, 64):
                    raise CompileError(
                        f".address_size must be 32 or 64, not {module.address_size}", token.line
                    )
            elif word in (".file", ".loc"):
                self.skip_line(token.line)
            elif word == ".section":
                self.skip_section()
            elif word == ".pragma":
                self.skip_to_semicolon()
            elif word == ".alias":
                raise unsupported(
                    ".alias", token.line, "function aliases are not implemented; name the function itself"
                )
            else:
                self.back()
                self.declaration(module)
        if not module.version[0]:
            raise CompileError("a PTX module starts with .version")
        _adopt_locals(module)
        if not explicit and any(_addresses_are_wide(f.body or ()) for f in module.functions):
            module.address_size = 64
        return module

    def declaration(self, module: ast.Module) -> None:
        linkage = ""
        while self.text in LINKAGE:
            linkage = self.next().text[1:]
        token = self.next()
        if token.text in (".entry", ".func"):
            module.functions.append(self.function(token, linkage))
        elif token.text in SPACES or token.text == ".tex":
            module.variables.extend(self.variables(SPACES.get(token.text, "tex"), linkage, token.line))
        else:
            raise self.wrong("a directive of module level", token)

    def function(self, token: Token, linkage: str) -> ast.Function:
        entry = token.text == ".entry"
        directives: dict[str, tuple[int, ...]] = {}
        self.attributes(directives)
        returns = self.parameters() if self.kind == "(" and not entry else []
        name = self.expect("w").text
        params = self.parameters() if self.kind == "(" else []
        self.attributes(directives)
        body: tuple[ast.Statement, ...] | None = None
        if self.accept("{"):
            body = self.block()
        else:
            self.accept(";")
        return ast.Function(name, entry, params, returns, body, linkage, token.line, directives)

    def attributes(self, into: dict[str, tuple[int, ...]]) -> None:
        while self.kind == "w" and self.text.startswith("."):
            token = self.next()
            if token.text in TUNING:
                values = []
                while self.kind == "n":
                    values.append(int(self.next().text.rstrip("U"), 0))
                    if not self.accept(","):
                        break
                into[token.text[1:]] = tuple(values)
            elif token.text == ".pragma":
                self.skip_to_semicolon()
            elif token.text == ".attribute":
                self.expect("(")
                while not self.accept(")"):
                    self.next()
            elif token.text == ".noinline":
                into["noinline"] = ()
            elif token.text in (".unified",):
                continue
            elif token.text in MODULE_LEVEL:
                # nvcc 3 ends a prototype with the line, not with a semicolon.
                self.back()
                return
            else:
                raise unsupported(token.text, token.line, "the directive belongs to later chips")

    def parameters(self) -> list[ast.Variable]:
        self.expect("(")
        found: list[ast.Variable] = []
        while not self.accept(")"):
            token = self.next()
            if token.text not in (".param", ".reg"):
                raise self.wrong(".param or .reg", token)
            found.extend(self.variables(token.text[1:], "", token.line, single=True))
            self.accept(",")
        return found

    # ---- variables

    def variables(self, space: str, linkage: str, line: int, single: bool = False) -> list[ast.Variable]:
        align = 0
        vector = 1
        kind = ""
        while self.kind == "w" and self.text.startswith("."):
            token = self.next()
            word = token.text[1:]
            if word == "align":
                align = self.constant()
                if align <= 0 or align & (align - 1) or align > 128:
                    raise CompileError(f".align must be a power of two up to 128, not {align}", token.line)
            elif word in ("v2", "v4"):
                vector = int(word[1:])
            elif word in TYPES:
                kind = word
            elif word == "attribute":
                self.expect("(")
                while not self.accept(")"):
                    self.next()
            elif word == "ptr":
                # .ptr[.space][.align n] says where a pointer parameter points to: an optimisation hint only.
                continue
            elif word in (
                "ptr.global",
                "ptr.const",
                "ptr.shared",
                "ptr.local",
                "global",
                "const",
                "shared",
                "local",
            ):
                continue
            elif space == "const" and word.startswith("bank"):
                raise unsupported(token.text, token.line, "numbered constant banks ended with PTX 2.2")
            else:
                raise self.wrong("a type", token)
        if not kind:
            raise CompileError("a variable needs a type", line)
        if kind in ("texref", "samplerref", "surfref") or space == "tex":
            raise unsupported(f".{kind}", line, "texture and surface references are not implemented")
        size = type_size(kind)
        out: list[ast.Variable] = []
        while True:
            at = self.line
            name = self.expect("w").text
            count = 1
            array = False
            while self.accept("["):
                array = True
                if self.accept("]"):
                    count = 0
                    continue
                extent = self.constant()
                self.expect("]")
                if extent < 0 or extent > 1 << 32:
                    raise CompileError(f"{name} has {extent} elements; an array has 0 to 2**32", at)
                count *= extent
            init = self.initialiser() if self.accept("=") else None
            if init is not None and array and count == 0:
                count = -(-len(init) // vector)
            if init is not None and len(init) > count * vector:
                raise CompileError(f"{name} has {count * vector} elements and {len(init)} initial values", at)
            if self.accept("<"):
                # a parametrised family outside .reg
                number_of = self.plain_integer()
                self.expect(">")
                for k in range(number_of):
                    out.append(
                        ast.Variable(
                            f"{name}{k}",
                            space,
                            kind,
                            max(align, size * vector),
                            vector,
                            count,
                            array,
                            None,
                            linkage,
                            at,
                        )
                    )
            else:
                out.append(
                    ast.Variable(
                        name,
                        space,
                        kind,
                        max(align, min(size * vector, 16)),
                        vector,
                        count,
                        array,
                        init,
                        linkage,
                        at,
                    )
                )
            if single or not self.accept(","):
                break
        if not single:
            self.expect(";")
        return out

    def initialiser(self) -> list[ast.Number | ast.SymbolRef]:
        if self.accept("{"):
            values: list[ast.Number | ast.SymbolRef] = []
            while not self.accept("}"):
                values.extend(self.initialiser())
                self.accept(",")
            return values
        if self.kind == "w":
            token = self.next()
            if token.text == "generic":
                self.expect("(")
                name = self.expect("w").text
                offset = self.constant() if self.kind in ("+", "-") else 0
                self.expect(")")
                if self.kind in ("+", "-"):
                    offset += self.constant()
                return [ast.SymbolRef(name, offset, True)]
            return [ast.SymbolRef(token.text, self.constant() if self.kind in ("+", "-") else 0)]
        if self.kind == "n" and self.peek(1).kind == "(":
            # 0xff00(generic(symbol)): one byte of an address
            mask = self.constant_atom()
            self.expect("(")
            inner = self.initialiser()
            self.expect(")")
            ref = inner[0]
            shift = (mask & -mask).bit_length() - 1
            if not isinstance(ref, ast.SymbolRef) or mask >> shift != 0xFF:
                raise CompileError("a mask before an address selects one byte of it", self.line)
            return [ast.SymbolRef(ref.name, ref.offset, ref.generic, shift)]
        return [self.literal()]

    def literal(self) -> ast.Number:
        """A floating or integer constant (expression)."""
        ahead = 0
        sign = 1
        while self.peek(ahead).kind in ("-", "+"):
            if self.peek(ahead).kind == "-":
                sign = -sign
            ahead += 1
        token = self.peek(ahead)
        if token.kind == "n":
            value = number(token)
            if value.bits is not None or isinstance(value.value, float):
                self.at += ahead + 1
                if sign < 0:
                    bits = None if value.bits is None else value.bits ^ (1 << (value.width - 1))
                    return ast.Number(-value.value, bits, value.width)
                return value
        return ast.Number(self.constant())

    # ---- bodies

    def block(self) -> tuple[ast.Statement, ...]:
        self.depth += 1
        if self.depth > MAXIMUM_DEPTH:
            raise CompileError(f"blocks nest deeper than {MAXIMUM_DEPTH}", self.line)
        out: list[ast.Statement] = []
        while not self.accept("}"):
            if not self.kind:
                raise CompileError("a body ends without its closing brace", self.line)
            self.statement(out)
        self.depth -= 1
        return tuple(out)

    def statement(self, out: list[ast.Statement]) -> None:
        token = self.next()
        kind = token.kind
        if kind == ";":
            return
        if kind == "{":
            out.append(ast.Scope(self.block()))
            return
        guard: str | None = None
        guard_not = False
        if kind == "@":
            guard_not = self.accept("!")
            guard = self.expect("w").text
            token = self.expect("w")
        elif kind != "w":
            raise self.wrong("an instruction", token)
        word = token.text
        if word[0] == "." and guard is None:
            self.directive(token, out)
            return
        if self.kind == ":" and guard is None:
            self.next()
            if self.text in (".branchtargets", ".callprototype", ".calltargets"):
                out.append(self.table(word, self.next()))
            else:
                out.append(ast.Label(word, token.line))
            return
        op, *mods = word.split(".")
        if op == "call":
            out.append(self.call(token, guard, guard_not))
            return
        args: list[ast.Operand] = []
        if self.kind != ";":
            args.append(self.operand())
            while self.accept(","):
                args.append(self.operand())
        self.expect(";")
        out.append(ast.Instr(op, tuple(mods), tuple(args), token.line, guard, guard_not))

    def directive(self, token: Token, out: list[ast.Statement]) -> None:
        word = token.text
        if word == ".reg":
            self.registers(out)
        elif word in SPACES:
            out.extend(self.variables(SPACES[word], "", token.line))
        elif word in LINKAGE:
            space = self.next()
            if space.text not in SPACES:
                raise self.wrong("a variable", space)
            out.extend(self.variables(SPACES[space.text], word[1:], token.line))
        elif word == ".pragma":
            self.skip_to_semicolon()
        elif word in (".loc", ".file"):
            self.skip_line(token.line)
        elif word == ".section":
            self.skip_section()
        elif word in TUNING:
            self.back()
            self.attributes({})
            self.accept(";")
        else:
            raise self.wrong("an instruction or a directive of a body", token)

    def registers(self, out: list[ast.Statement]) -> None:
        vector = 1
        kind = ""
        while self.kind == "w" and self.text.startswith("."):
            token = self.next()
            word = token.text[1:]
            if word in ("v2", "v4"):
                vector = int(word[1:])
            elif word in TYPES:
                kind = word
            else:
                raise self.wrong("a register type", token)
        if not kind:
            raise CompileError("a register needs a type", self.line)
        while True:
            name = self.expect("w").text
            count = None
            if self.accept("<"):
                count = self.plain_integer()
                self.expect(">")
            out.append(ast.RegisterDecl(name, kind, vector, count))
            if not self.accept(","):
                break
        self.expect(";")

    def table(self, name: str, token: Token) -> ast.Statement:
        if token.text == ".callprototype":
            returns: list[ast.Variable] = []
            params: list[ast.Variable] = []
            if self.kind == "(":
                returns = self.parameters()
            self.expect("w")
            if self.kind == "(":
                params = self.parameters()
            while self.kind == "w" and self.text.startswith("."):
                self.next()
            self.expect(";")
            return ast.Prototype(name, tuple(returns), tuple(params), (), token.line)
        names = [self.expect("w").text]
        while self.accept(","):
            names.append(self.expect("w").text)
        self.expect(";")
        if token.text == ".branchtargets":
            return ast.Targets(name, tuple(names), token.line)
        return ast.Prototype(name, (), (), tuple(names), token.line)

    def call(self, token: Token, guard: str | None, guard_not: bool) -> ast.Call:
        returns: list[str] = []
        if self.accept("("):
            while not self.accept(")"):
                returns.append(self.expect("w").text)
                self.accept(",")
            self.expect(",")
        target = self.expect("w").text
        arguments: list[ast.Name | ast.Number] = []
        prototype: str | None = None
        if self.accept(","):
            if self.accept("("):
                while not self.accept(")"):
                    item = self.operand()
                    if not isinstance(item, ast.Name | ast.Number):
                        raise CompileError("a call passes registers, constants and parameters", token.line)
                    arguments.append(item)
                    self.accept(",")
                if self.accept(","):
                    prototype = self.expect("w").text
            else:
                prototype = self.expect("w").text
        self.expect(";")
        return ast.Call(target, tuple(returns), tuple(arguments), prototype, token.line, guard, guard_not)

    def operand(self) -> ast.Operand:
        kind = self.kind
        if kind == "w":
            name = self.next().text
            if self.kind == "|":
                self.next()
                return ast.Pair(name, self.expect("w").text)
            if self.kind in ("+", "-"):
                return ast.Name(name, self.constant())
            return ast.Name(name)
        if kind == "[":
            self.next()
            base: str | None = None
            offset = 0
            if self.kind == "w":
                base = self.next().text
                if self.kind in ("+", "-"):
                    offset = self.constant()
                elif self.kind == ",":
                    raise unsupported(
                        "a texture or tensor address",
                        self.line,
                        "textures and tensor maps are not implemented",
                    )
            else:
                offset = self.constant()
            self.expect("]")
            return ast.Address(base, offset)
        if kind == "{":
            self.next()
            items: list[ast.Name | ast.Number] = []
            while not self.accept("}"):
                item = self.operand()
                if not isinstance(item, ast.Name | ast.Number):
                    raise CompileError("a vector holds registers and constants", self.line)
                items.append(item)
                self.accept(",")
            return ast.Vector(tuple(items))
        if kind == "!" and self.peek(1).kind == "w":
            self.next()
            return ast.Not(self.next().text)
        return self.literal()

    # ---- what is skipped

    def skip_line(self, line: int) -> None:
        while self.kind and self.line == line:
            self.next()

    def skip_section(self) -> None:
        self.next()
        self.expect("{")
        depth = 1
        while depth:
            token = self.next()
            if not token.kind:
                raise CompileError("a section ends without its closing brace", token.line)
            depth += (token.kind == "{") - (token.kind == "}")

    def skip_to_semicolon(self) -> None:
        while self.next().kind not in (";", ""):
            pass


def _adopt_locals(module: ast.Module) -> None:
    """Old PTX lets a .local variable stand at module level; each kernel's threads have one of their own."""
    shared = [v for v in module.variables if v.space == "local"]
    if not shared:
        return
    if any(f.body is not None and not f.entry for f in module.functions):
        raise unsupported(
            f".local {shared[0].name} at module level", shared[0].line, "declare it inside the function"
        )
    module.variables = [v for v in module.variables if v.space != "local"]
    for f in module.functions:
        if f.body is not None:
            f.body = (*shared, *f.body)


def _addresses_are_wide(body: tuple[ast.Statement, ...]) -> bool:
    """Before PTX 2.3 nothing but the registers used as addresses said how wide addresses are."""
    wide: list[str] = []
    used: set[str] = set()
    work: list[ast.Statement] = list(body)
    for s in work:
        if isinstance(s, ast.Scope):
            work.extend(s.body)
        elif isinstance(s, ast.RegisterDecl) and type_size(s.type) == 8:
            wide.append(s.name)
        elif isinstance(s, ast.Instr) and s.op in ("ld", "st", "atom", "red") and "global" in s.mods:
            used.update(o.base for o in s.args if isinstance(o, ast.Address) and o.base is not None)
    return any(u == w or (u.startswith(w) and u[len(w) :].isdigit()) for w in wide for u in used)


def type_size(name: str) -> int:
    """Bytes of one element of a PTX type; a predicate counts 1."""
    digits = name.strip("abcdefghijklmnopqrstuvwyz")
    if name.endswith("x2"):
        return 4
    return int(digits) // 8 if digits.isdigit() else 1


def float_bits(value: float, width: int) -> int:
    """Raw bits of a floating constant at 32 or 64 bits, rounded to nearest."""
    if width == 64:
        return int.from_bytes(struct.pack("<d", value), "little")
    try:
        return int.from_bytes(struct.pack("<f", value), "little")
    except OverflowError:
        return 0x7F800000 if value > 0 else 0xFF800000


def parse(text: str) -> ast.Module:
    """Parse a PTX module.

    Raises
    ------
    CompileError
        With the line, for text that is not PTX.
    """
    return Parser(text).module()
