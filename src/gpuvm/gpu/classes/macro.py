"""The macro processor of PGRAPH (MME): its instructions, and their execution. It sits before the classes: a macro
takes parameters, computes, and sends methods to the object that called it.

Encoding: envytools' description of Fermi's macro ISA. A macro waits for parameters that have not come yet, and
for methods that take long; so an execution is a generator that asks for either.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator

Request = tuple[int, int] | None
"""What an execution yields: a method's byte offset and its data to send, or None for a parameter to be given."""

Execution = Generator[Request, int | None, None]

CODE_WORDS, ENTRIES = 0x800, 0x80
STEPS_MAX = 100_000
"""Instructions of one call; more is a TIMEOUT."""

TOO_FEW_PARAMS, TOO_MANY_PARAMS, ILLEGAL_OPCODE, DOUBLE_BRANCH, TIMEOUT = (1 << bit for bit in range(5))
"""Bits of PGRAPH.MACRO_TRAP."""

ADD, ADD_IMMEDIATE, INSERT, EXTRACT_BY_REGISTER, SHIFT_BY_REGISTER, READ, _, BRANCH = range(8)
"""Operations, in bits 0-2."""

BRANCH_NON_ZERO, BRANCH_ANNUL, EXIT = 1 << 4, 1 << 5, 1 << 7

ALU_ADD, ALU_ADC, ALU_SUB, ALU_SBB = 0, 1, 2, 3
ALU_XOR, ALU_OR, ALU_AND, ALU_ANDN, ALU_NAND = 8, 9, 10, 11, 12

(
    TAKE_PARAM,
    MOVE,
    MOVE_ADDRESS,
    SEND_TAKE_PARAM,
    SEND,
    ADDRESS_TAKE_PARAM,
    ADDRESS_SEND_PARAM,
    ADDRESS_SEND_HIGH,
) = range(8)
"""What is done with the result, in bits 4-6."""

WORD = 0xFFFFFFFF


class MacroTrap(Exception):
    """The macro processor stops.

    Attributes
    ----------
    bits : int
        Of PGRAPH.MACRO_TRAP.
    """

    consumed = 1

    def __init__(self, bits: int, pc: int = 0, opcode: int = 0) -> None:
        super().__init__(bits)
        self.bits = bits
        self.pc = pc
        self.opcode = opcode


class MacroMemory:
    """A channel's macros: code words and where each one starts."""

    def __init__(self) -> None:
        self.code = array("I", bytes(4 * CODE_WORDS))
        self.entries = array("I", bytes(4 * ENTRIES))


def run(memory: MacroMemory, number: int, argument: int, read: Callable[[int], int]) -> Execution:
    """Execute macro `number`; `read` returns what a method (byte offset) was last set to.

    Raises
    ------
    MacroTrap
    """
    code = memory.code
    registers = [0, argument, 0, 0, 0, 0, 0, 0]
    address = increment = carry = 0
    pc, following = memory.entries[number] & (CODE_WORDS - 1), -1
    leaving = False
    for _ in range(STEPS_MAX):
        word = code[pc]
        in_slot, after = following >= 0 or leaving, following
        following = -1
        next_pc = (pc + 1 if after < 0 else after) & (CODE_WORDS - 1)
        operation = word & 7
        first, second = registers[word >> 11 & 7], registers[word >> 14 & 7]
        signed = (word >> 14) - (1 << 18 if word >> 31 else 0)

        if operation == BRANCH:
            if in_slot:
                raise MacroTrap(DOUBLE_BRANCH, pc, word)
            if (first != 0) == bool(word & BRANCH_NON_ZERO):
                target = (pc + signed) & (CODE_WORDS - 1)
                if word & BRANCH_ANNUL:
                    pc = target
                else:
                    following = target
                    pc = next_pc
                continue
            if word & EXIT:
                leaving = True
            pc = next_pc
            continue

        if operation == ADD:
            result, carry = _arithmetic(word, first, second, carry, pc)
        elif operation == ADD_IMMEDIATE:
            result = first + signed & WORD
        elif operation == READ:
            result = read((first + signed & 0xFFF) << 2)
        elif operation in (INSERT, EXTRACT_BY_REGISTER, SHIFT_BY_REGISTER):
            source, size, target = word >> 17 & 31, word >> 22 & 31, word >> 27 & 31
            mask = (1 << size) - 1
            if operation == INSERT:
                result = (first & ~(mask << target) | (second >> source & mask) << target) & WORD
            elif operation == EXTRACT_BY_REGISTER:
                result = (second >> (first & 31) & mask) << target & WORD
            else:
                result = (second >> source & mask) << (first & 31) & WORD
        else:
            raise MacroTrap(ILLEGAL_OPCODE, pc, word)

        use, to = word >> 4 & 7, word >> 8 & 7
        value = result
        if use in (MOVE_ADDRESS, ADDRESS_TAKE_PARAM, ADDRESS_SEND_PARAM, ADDRESS_SEND_HIGH):
            address, increment = (result & 0xFFF) << 2, (result >> 12 & 0x3F) << 2
        if use in (SEND_TAKE_PARAM, SEND):
            yield address, result
            address = address + increment & 0x3FFC
        if use in (TAKE_PARAM, SEND_TAKE_PARAM, ADDRESS_TAKE_PARAM):
            value = (yield None) or 0
        elif use == ADDRESS_SEND_PARAM:
            taken = (yield None) or 0
            yield address, taken
            address = address + increment & 0x3FFC
        elif use == ADDRESS_SEND_HIGH:
            yield address, result >> 12 & 0x3F
            address = address + increment & 0x3FFC
        if to:
            registers[to] = value
        if leaving:
            return
        leaving = bool(word & EXIT)
        pc = next_pc
    raise MacroTrap(TIMEOUT, pc, code[pc])


def _arithmetic(word: int, first: int, second: int, carry: int, pc: int) -> tuple[int, int]:
    """Return the result of a register operation and the carry; of a subtraction it says that nothing was
    borrowed.
    """
    function = word >> 17 & 31
    if function in (ALU_ADD, ALU_ADC):
        total = first + second + (carry if function == ALU_ADC else 0)
        return total & WORD, total >> 32
    if function in (ALU_SUB, ALU_SBB):
        total = first - second - (1 - carry if function == ALU_SBB else 0)
        return total & WORD, int(total >= 0)
    if function == ALU_XOR:
        return first ^ second, carry
    if function == ALU_OR:
        return first | second, carry
    if function == ALU_AND:
        return first & second, carry
    if function == ALU_ANDN:
        return first & ~second & WORD, carry
    if function == ALU_NAND:
        return ~(first & second) & WORD, carry
    raise MacroTrap(ILLEGAL_OPCODE, pc, word)
