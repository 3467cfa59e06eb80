"""The one exception of the compiler room."""

from __future__ import annotations


class CompileError(Exception):
    """PTX that cannot become Fermi machine code, or a cubin that cannot be read.

    Attributes
    ----------
    line : int
        Line of the PTX text, counted from 1; 0 if the error belongs to no line.
    kind : str "syntax" (not PTX), "unsupported" (PTX that Fermi cannot do), "link" (a symbol is missing),
        "cubin" (bad ELF).
    """

    def __init__(self, message: str, line: int = 0, kind: str = "syntax") -> None:
        super().__init__(f"line {line}: {message}" if line else message)
        self.line = line
        self.kind = kind


def unsupported(what: str, line: int, reason: str) -> CompileError:
    """The error for valid PTX that this chip has no means for."""
    return CompileError(f"{what} is not supported on sm_20: {reason}", line, "unsupported")
