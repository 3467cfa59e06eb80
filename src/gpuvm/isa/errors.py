"""What can go wrong with machine code and its text; every message is one sentence for a person."""

from __future__ import annotations


class IsaError(ValueError):
    """Base of the errors of this package."""


class DecodeError(IsaError):
    """The bytes are not an instruction that a GF100 is known to execute.

    Attributes
    ----------
    pc : int
        Byte offset of the instruction.
    word : int
        What stands there (32 or 64 bits), 0 if the code ends first.
    """

    def __init__(self, message: str, pc: int, word: int = 0) -> None:
        super().__init__(message)
        self.pc = pc
        self.word = word


class EncodeError(IsaError):
    """The instruction has no encoding."""


class FieldError(EncodeError):
    """An operand or modifier does not fit its field; carries no instruction name yet."""


class KindError(FieldError):
    """An operand of another kind than the field's stands there."""


class AssembleError(IsaError):
    """The text is not valid assembly.

    Attributes
    ----------
    line, column : int
        Where, from 1.
    """

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(f"line {line}, column {column}: {message}")
        self.line = line
        self.column = column
