"""PTX constants and constant expressions: C's operators on 64-bit integers, floats by their bits."""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable

from gpuvm.compiler.errors import CompileError
from gpuvm.compiler.ptx import ast
from gpuvm.compiler.ptx.lexer import Token

_BINARY: tuple[dict[str, Callable[[int, int], int]], ...] = (
    {"||": lambda a, b: int(bool(a) or bool(b))},
    {"&&": lambda a, b: int(bool(a) and bool(b))},
    {"|": operator.or_},
    {"^": operator.xor},
    {"&": operator.and_},
    {"==": operator.eq, "!=": operator.ne},
    {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge},
    {"<<": lambda a, b: a << (b & 63), ">>": lambda a, b: a >> (b & 63)},
    {"+": operator.add, "-": operator.sub},
    {
        "*": operator.mul,
        "/": lambda a, b: abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1),
        "%": lambda a, b: abs(a) % abs(b) * (-1 if a < 0 else 1),
    },
)
MAXIMUM_NESTING = 200


def number(token: Token) -> ast.Number:
    """The value of a number token."""
    text = token.text
    lead = text[:2]
    if lead in ("0f", "0F"):
        bits = int(text[2:], 16)
        return ast.Number(struct.unpack("<f", bits.to_bytes(4, "little"))[0], bits, 32)
    if lead in ("0d", "0D"):
        bits = int(text[2:], 16)
        return ast.Number(struct.unpack("<d", bits.to_bytes(8, "little"))[0], bits, 64)
    if lead not in ("0x", "0X") and any(c in text for c in ".eE"):
        return ast.Number(float(text))
    text = text.rstrip("U")
    try:
        if len(text) > 1 and text[0] == "0" and text[1].isdigit():
            return ast.Number(int(text, 8))
        return ast.Number(int(text, 0))
    except ValueError:
        raise CompileError(f"{token.text} is not a number", token.line) from None


class Expression:
    """Walks tokens and evaluates integer constant expressions; the parser builds on it."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.nesting = 0

    @property
    def kind(self) -> str:
        return self.tokens[self.at].kind

    @property
    def text(self) -> str:
        return self.tokens[self.at].text

    @property
    def line(self) -> int:
        return self.tokens[self.at].line

    def peek(self, ahead: int) -> Token:
        return self.tokens[min(self.at + ahead, len(self.tokens) - 1)]

    def next(self) -> Token:
        token = self.tokens[self.at]
        if token.kind:
            self.at += 1
        return token

    def back(self) -> None:
        self.at -= 1

    def accept(self, kind: str) -> bool:
        if self.tokens[self.at].kind == kind:
            self.at += 1
            return True
        return False

    def expect(self, kind: str) -> Token:
        token = self.tokens[self.at]
        if token.kind != kind:
            raise self.wrong({"w": "a name", "n": "a number"}.get(kind, f"'{kind}'"), token)
        self.at += 1
        return token

    def wrong(self, wanted: str, token: Token) -> CompileError:
        return CompileError(f"expected {wanted}, found {token.text!r}", token.line)

    def plain_integer(self) -> int:
        """An integer written as one number."""
        token = self.expect("n")
        value = number(token).value
        if isinstance(value, float):
            raise CompileError(f"expected an integer, found {token.text}", token.line)
        return value

    def constant(self) -> int:
        """An integer constant expression, wrapped to 64 bits (signed)."""
        sign = self.kind in ("+", "-")
        if self.peek(sign).kind == "n" and self.peek(sign + 1).kind in ("]", ";", ",", ")", "}"):
            negative = sign and self.next().kind == "-"
            value = self.plain_integer()
            return -value if negative else value
        value = self._level(0)
        if self.accept("?"):
            then = self.constant()
            self.expect(":")
            other = self.constant()
            value = then if value else other
        return value

    def _level(self, level: int) -> int:
        if level == len(_BINARY):
            return self.constant_atom()
        table = _BINARY[level]
        value = self._level(level + 1)
        while self.kind in table:
            token = self.next()
            right = self._level(level + 1)
            if right == 0 and token.kind in "/%":
                raise CompileError("a constant expression divides by zero", token.line)
            value = _wrap(int(table[token.kind](value, right)))
        return value

    def constant_atom(self) -> int:
        token = self.next()
        if token.kind == "n":
            value = number(token).value
            if isinstance(value, float):
                raise CompileError(f"expected an integer constant, found {token.text}", token.line)
            return value
        self.nesting += 1
        if self.nesting > MAXIMUM_NESTING:
            raise CompileError("a constant expression nests too deeply", token.line)
        try:
            if token.kind == "-":
                return _wrap(-self.constant_atom())
            if token.kind == "+":
                return self.constant_atom()
            if token.kind == "~":
                return ~self.constant_atom()
            if token.kind == "!":
                return int(not self.constant_atom())
            if token.kind == "(":
                if self.kind == "w" and self.text in (".s64", ".u64"):
                    unsigned = self.next().text == ".u64"
                    self.expect(")")
                    value = self.constant_atom()
                    return value & (1 << 64) - 1 if unsigned else _wrap(value)
                value = self.constant()
                self.expect(")")
                return value
        finally:
            self.nesting -= 1
        raise self.wrong("a constant", token)


def _wrap(value: int) -> int:
    """Two's complement at 64 bits; values that fit unsigned stay as they are."""
    if -(1 << 63) <= value < 1 << 64:
        return value
    return value & (1 << 64) - 1
