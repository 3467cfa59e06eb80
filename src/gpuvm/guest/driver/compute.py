"""Kernel launches by class 0x90c0: the methods in the order of the open drivers, sent only as far as they
change."""

from __future__ import annotations

from dataclasses import dataclass

from gpuvm.guest.driver.push import (
    INCREMENT_ONCE,
    SUBCHANNEL_COMPUTE,
    Compute,
    increment,
    repeat,
)

SHARED_WINDOW, LOCAL_WINDOW = 0xFE000000, 0xFF000000
STACK_TOP = 0x00FFFC40
"""Initial stack pointer: nvcc's ABI keeps the 960 bytes above it."""
STACK_RESERVED = 0x01000000 - STACK_TOP
STACK_POINTER_OFFSET = 0x100
"""Where c[0x1] holds the initial stack pointer."""
PARAMETER_OFFSET = 0x20
PARAMETER_LIMIT = 0x1000
CONSTANT0_SIZE = 0x1100
CONSTANT1_SIZE = 0x200
WARPS_PER_MULTIPROCESSOR = 48


@dataclass(frozen=True, slots=True)
class Program:
    """What a kernel needs of the hardware besides its arguments and its grid.

    Attributes
    ----------
    code, entry : int
        GPU virtual address of the code segment, byte offset of the first instruction.
    registers, shared, barriers : int
        Per thread, bytes per block (static), named barriers per block.
    local_positive, local_negative, call_stack : int
        Bytes of local memory per thread up from 0 and down from 2**24, bytes of return stack per warp.
    constants : tuple of (bank, GPU virtual address, bytes)
        Constant buffers other than c[0x0] and c[0x1].
    """

    code: int
    entry: int
    registers: int
    shared: int
    barriers: int
    local_positive: int = 0
    local_negative: int = 0
    call_stack: int = 0
    constants: tuple[tuple[int, int, int], ...] = ()

    @property
    def warp_bytes(self) -> int:
        """Local memory of one warp."""
        return 32 * (self.local_positive + self.local_negative) + self.call_stack


class ComputeState:
    """What the channel's compute object was last told.

    Parameters
    ----------
    constants : int
        GPU virtual address of 8 KiB: c[0x0] (arguments) and behind it c[0x1].
    multiprocessors : int
    """

    def __init__(self, constants: int, multiprocessors: int) -> None:
        self._bank0 = constants
        self._bank1 = constants + 0x1000
        self._multiprocessors = multiprocessors
        self._last: dict[int, tuple[int, ...]] = {}
        self._grid_id = 0

    def first_words(self) -> list[int]:
        """Bring a fresh compute object up."""
        sub = SUBCHANNEL_COMPUTE
        words = increment(sub, Compute.NOP, 0)
        words += increment(sub, Compute.MP_LIMIT, self._multiprocessors)
        words += increment(sub, Compute.CALL_LIMIT_LOG, 0xF)
        words += increment(sub, Compute.UNK2A0, 0x8000)
        words += increment(sub, Compute.GLOBAL_BASE_ENABLE, 0)
        words += repeat(sub, Compute.GLOBAL_BASE, [0xC << 28 | i << 16 | i for i in range(0xFF)])
        words += increment(sub, Compute.GLOBAL_BASE_ENABLE, 1)
        words += increment(sub, Compute.CB_SIZE, CONSTANT1_SIZE, self._bank1 >> 32, self._bank1 & 0xFFFFFFFF)
        words += increment(sub, Compute.CB_BIND, 1 << 8 | 1)
        words += self._data(0, [0] * (STACK_POINTER_OFFSET // 4) + [STACK_TOP])
        words += increment(sub, Compute.CB_SIZE, CONSTANT0_SIZE, self._bank0 >> 32, self._bank0 & 0xFFFFFFFF)
        words += increment(sub, Compute.CB_BIND, 1)
        return words

    def launch_words(
        self,
        program: Program,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared: int,
        arguments: list[int],
        local: tuple[int, int],
        cache_split: int,
    ) -> list[int]:
        """Return the words of one launch.

        Parameters
        ----------
        shared : int
            Bytes of shared memory per block, static and dynamic.
        arguments : list of int
            Words of c[0x0] from 0x20.
        local : (int, int)
            GPU virtual address and bytes of the local memory backing.
        cache_split : int
            3: 48 KiB of shared memory a multiprocessor; 1: 16 KiB.
        """
        sub = SUBCHANNEL_COMPUTE
        words: list[int] = []
        put = self._put
        put(
            words,
            Compute.TEMP_ADDRESS_HIGH,
            local[0] >> 32,
            local[0] & 0xFFFFFFFF,
            local[1] >> 32,
            local[1] & 0xFFFFFFFF,
            program.warp_bytes,
        )
        put(words, Compute.LOCAL_BASE, LOCAL_WINDOW)
        put(
            words, Compute.LOCAL_POS_ALLOC, program.local_positive, program.local_negative, program.call_stack
        )
        put(words, Compute.CACHE_SPLIT, cache_split)
        put(words, Compute.SHARED_BASE, SHARED_WINDOW)
        put(words, Compute.SHARED_SIZE, shared)
        if put(words, Compute.CODE_ADDRESS_HIGH, program.code >> 32, program.code & 0xFFFFFFFF):
            words += increment(sub, Compute.FLUSH, Compute.FLUSH_CODE)
        put(words, Compute.CP_START_ID, program.entry)
        for bank, address, size in program.constants:
            # Not a register but a table of bindings: keyed by bank, above all method numbers.
            if self._last.get(0x10000 + bank) != (address, size):
                self._last[0x10000 + bank] = (address, size)
                words += increment(sub, Compute.CB_SIZE, size, address >> 32, address & 0xFFFFFFFF)
                words += increment(sub, Compute.CB_BIND, bank << 8 | 1)
        words += increment(sub, Compute.CB_SIZE, CONSTANT0_SIZE, self._bank0 >> 32, self._bank0 & 0xFFFFFFFF)
        words += self._data(0, [SHARED_WINDOW, LOCAL_WINDOW, *block, *grid, *arguments])
        words += increment(sub, Compute.FLUSH, Compute.FLUSH_CONSTANTS)
        put(words, Compute.GRIDDIM_YX, grid[1] << 16 | grid[0], grid[2])
        put(words, Compute.BLOCKDIM_YX, block[1] << 16 | block[0], block[2])
        put(words, Compute.THREADS_ALLOC, block[0] * block[1] * block[2])
        put(words, Compute.CP_GPR_ALLOC, program.registers)
        put(words, Compute.BARRIER_ALLOC, program.barriers)
        self._grid_id = self._grid_id + 1 & 0xFFFFFFFF
        words += increment(sub, Compute.GRIDID, self._grid_id)
        words += increment(sub, Compute.UNK36C, 0)
        words += increment(sub, Compute.FLUSH, Compute.FLUSH_GLOBAL)
        words += increment(sub, Compute.UNK29C_BEGIN, 0)
        words += increment(sub, Compute.UNKA08, 0)
        words += increment(sub, Compute.LAUNCH, Compute.LAUNCH_TRIGGER)
        words += increment(sub, Compute.UNKA04_END, 0)
        words += increment(sub, Compute.UNK360, 1)
        return words

    def forget(self) -> None:
        """The next launch sends everything."""
        self._last.clear()

    def _put(self, words: list[int], method: int, *data: int) -> bool:
        if self._last.get(method) == data:
            return False
        self._last[method] = data
        words += increment(SUBCHANNEL_COMPUTE, method, *data)
        return True

    def _data(self, position: int, data: list[int]) -> list[int]:
        """Write words into the selected constant buffer in order with the rest of the pushbuffer."""
        count = len(data) + 1
        return [
            INCREMENT_ONCE | count << 16 | SUBCHANNEL_COMPUTE << 13 | Compute.CB_POS >> 2,
            position,
            *data,
        ]
