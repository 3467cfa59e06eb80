"""PTX text to tokens: one regular expression, one pass."""

from __future__ import annotations

import re
from typing import NamedTuple

from gpuvm.compiler.errors import CompileError


class Token(NamedTuple):
    """`kind`: "w" word (may hold dots), "n" number, "s" string, or the punctuation character itself; "" at
    the end.
    """

    kind: str
    text: str
    line: int


_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
_TOKEN = re.compile(
    r"\s+"
    r"|(?P<w>[A-Za-z_$%.][\w$]*(?:(?:\.|::)[\w$]+)*)"
    r"|(?P<n>0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}|0[xX][0-9a-fA-F]+U?|0[bB][01]+U?"
    r"|\d+\.\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\d+U?)"
    r'|(?P<s>"[^"\n]*")'
    r"|(?P<p><<|>>|<=|>=|==|!=|&&|\|\||[{}()\[\],;:@!|<>=+\-*/%&^~?])"
)


def _blank(match: re.Match[str]) -> str:
    return "\n" * match.group().count("\n") or " "


def tokenize(text: str) -> list[Token]:
    """Split PTX text; comments vanish, line numbers stay true.

    Raises
    ------
    CompileError
        For a character that no PTX token starts with.
    """
    if "/*" in text or "//" in text:
        text = _COMMENT.sub(_blank, text)
    tokens: list[Token] = []
    append = tokens.append
    match = _TOKEN.match
    for number, line in enumerate(text.split("\n"), 1):
        at = 0
        end = len(line)
        while at < end:
            m = match(line, at)
            if m is None:
                raise CompileError(f"PTX has no token that starts with {line[at]!r}", number)
            kind = m.lastgroup
            if kind == "p":
                word = m.group()
                append(Token(word, word, number))
            elif kind is not None:
                append(Token(kind, m.group(), number))
            at = m.end()
    append(Token("", "end of text", tokens[-1].line if tokens else 1))
    return tokens
