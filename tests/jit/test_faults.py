"""What a kernel can do wrong: each ends as one error that says what, where and at which address; the process lives."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest

from gpuvm.jit.executor import Executor, StopFlag
from gpuvm.jit.launch import ErrorKind, ExecutionError, Launch
from gpuvm.jit.space import AccessError
from support.interpreter import Interpreter
from support.machine import CODE, CODE_SIZE, DATA_SIZE, FAR, NEAR, NOWHERE, ROM, Memory

WINDOWS = {"shared_size": 256, "local_positive": 64, "local_negative": 32}
THREAD = "S2R R0, SR_TID.X; SHL R1, R0, 0x2;"


USE = f"S2R R7, SR_TID.X; SHL R7, R7, 0x2; IADD32I R7, R7, {hex(NEAR + 0x1000)}; ST [R7], R8; EXIT;"
"""What a load left is stored: a load whose result nobody uses may be left out, fault and all."""


def both(memory: Memory, executor: Executor, launch: Launch) -> ExecutionError | None:
    """The error on the executor, which must be the interpreter's."""
    before = memory.snapshot()
    ours = executor.run(launch).error
    memory.restore(before)
    right = Interpreter(200_000).run(launch).error
    assert (ours is None) == (right is None), (ours, right)
    if ours and right:
        assert ours.kind is right.kind
        # A load may be done where its result is used.
        assert (
            ours.pc == right.pc if ours.write or ours.kind is not ErrorKind.UNMAPPED else ours.pc >= right.pc
        )
        assert ours.write == right.write
        if ours.kind in (ErrorKind.UNMAPPED, ErrorKind.READ_ONLY) and ours.address != right.address:
            # Of several lanes that fail any one may be told; more than 40 bits as the first address too large.
            with pytest.raises(AccessError):
                (memory.space.write if ours.write else memory.space.read)(
                    ours.address, b"1" if ours.write else 1
                )
        else:
            assert ours.address == right.address
        assert ours.kind in (ErrorKind.TRAP, ErrorKind.STOPPED) or ours.message
    return ours


def near(address: int) -> str:
    """Instructions that put a 64-bit address into R2:R3."""
    return f"MOV32I R2, {hex(address & 0xFFFFFFFF)}; MOV32I R3, {hex(address >> 32)};"


# Memory


@pytest.mark.parametrize(
    ("access", "write"),
    [
        ("LD.E R8, [R2];", False),
        ("LD.E.U8 R8, [R2];", False),
        ("LD.E.128 R8, [R2];", False),
        ("LDU.E R8, [R2];", False),
        ("ST.E [R2], R8;", True),
        ("ST.E.64 [R2], R8;", True),
        ("ATOM.E.ADD R8, [R2], R9;", True),
        ("RED.E.ADD [R2], R9;", True),
    ],
)
@pytest.mark.parametrize("spread", [0, 4096], ids=["one address", "a page each"])
def test_unmapped(memory: Memory, each: Executor, access: str, write: bool, spread: int) -> None:
    memory.code(f"S2R R0, SR_TID.X; {near(NOWHERE + 0x100)} IMAD R2, R0, {hex(spread)}, R2; {access} {USE}")
    error = both(memory, each, memory.launch())
    assert error is not None
    assert (error.kind, error.write) == (ErrorKind.UNMAPPED, write)
    assert (error.address - NOWHERE - 0x100) in {spread * lane for lane in range(32)}


def test_lanes_past_the_end_of_a_mapping(memory: Memory, each: Executor) -> None:
    memory.code(f"{THREAD} {near(FAR + DATA_SIZE - 64)} IADD R2, R2, R1; LD.E R8, [R2]; {USE}")
    error = both(memory, each, memory.launch())
    assert error is not None
    assert FAR + DATA_SIZE <= error.address < FAR + DATA_SIZE + 64


def test_beyond_forty_bits(memory: Memory, each: Executor) -> None:
    memory.code(f"{near(1 << 45)} LD.E R8, [R2]; {USE}")
    error = both(memory, each, memory.launch())
    assert error is not None
    assert error.kind is ErrorKind.UNMAPPED
    assert error.address >= 1 << 40


@pytest.mark.parametrize("access", ["ST.E [R2], R9;", "ATOM.E.ADD R8, [R2], R9;", "ST.E.U8 [R2], R9;"])
def test_read_only(memory: Memory, each: Executor, access: str) -> None:
    memory.put(ROM, b"\7" * 4096)
    memory.code(f"{near(ROM + 8)} LD.E R8, [R2]; {access} EXIT;")
    error = both(memory, each, memory.launch())
    assert error is not None
    assert (error.kind, error.address, error.write) == (ErrorKind.READ_ONLY, ROM + 8, True)
    assert memory.space.read(ROM, 16) == b"\7" * 16


@pytest.mark.parametrize(
    "access",
    ["LD.E R8, [R2+0x2];", "LD.E.64 R8, [R2+0x4];", "LD.E.128 R8, [R2+0x8];", "ST.E.U16 [R2+0x1], R8;",
     "ATOM.E.ADD R8, [R2+0x1], R9;", "RED.E.ADD.U64 [R2+0x4], R8;", "LDS R8, [0x6];", "STS.64 [0x4], R8;", "LDL R8, [0x3];",
     "STL.128 [0x8], R8;", "LDC R8, c[0x0][0x2];", "LDC.64 R8, c[0x0][R0+0x4];"],
)  # fmt: skip
def test_misaligned(memory: Memory, each: Executor, access: str) -> None:
    guard = "@P0 " if len(access) % 2 else ""
    memory.code(
        f"S2R R4, SR_TID.X; {near(FAR)} ISETP.GT.AND P0, PT, R4, 0x5, PT; MOV R0, RZ; {guard}{access} EXIT;"
    )
    error = both(memory, each, memory.launch(**WINDOWS))
    assert error is not None
    assert error.kind is ErrorKind.MISALIGNED


@pytest.mark.parametrize(
    "access", ["LD.E R8, [R2+0x2];", "LDS R8, [R1+0x200];", "LDL R8, [R1+0x100];", "LDC R8, c[0x0][0x2];"]
)
def test_nothing_is_wrong_where_no_lane_acts(memory: Memory, each: Executor, access: str) -> None:
    memory.code(f"{THREAD} {near(NOWHERE)} ISETP.LT.AND P0, PT, R0, RZ, PT; @P0 {access} EXIT;")
    assert both(memory, each, memory.launch(**WINDOWS)) is None


@pytest.mark.parametrize(
    ("access", "kind"),
    [
        ("LDS R8, [R1+0xfc];", ErrorKind.SHARED_RANGE),
        ("STS [0x100], R8;", ErrorKind.SHARED_RANGE),
        ("STS.128 [0xf8], R8;", ErrorKind.MISALIGNED),
        ("LDS.64 R8, [-0x8];", ErrorKind.SHARED_RANGE),
        ("LDSLK P0, R8, [0x100];", ErrorKind.SHARED_RANGE),
        ("LDL R8, [R1+0x20];", ErrorKind.LOCAL_RANGE),
        ("STL.64 [0x40], R8;", ErrorKind.LOCAL_RANGE),
        ("LDL R8, [R1-0x4];", ErrorKind.LOCAL_RANGE),
        ("LD R8, [R4+0x100];", ErrorKind.SHARED_RANGE),
        ("ST [R4+0xff0000], R8;", ErrorKind.SHARED_RANGE),
        ("LD R8, [R5+0x40];", ErrorKind.LOCAL_RANGE),
        ("ST.U8 [R5+0xffffdf], R8;", ErrorKind.LOCAL_RANGE),
        ("ATOM.ADD R8, [R5], R9;", ErrorKind.LOCAL_RANGE),
    ],
)  # fmt: skip
def test_shared_and_local_ranges(memory: Memory, each: Executor, access: str, kind: ErrorKind) -> None:
    memory.code(f"{THREAD} MOV32I R4, 0xfe000000; MOV32I R5, 0xff000000; {access} EXIT;")
    error = both(memory, each, memory.launch(**WINDOWS))
    assert error is not None
    assert error.kind is kind


@pytest.mark.parametrize("access", ["LD.E", "ST.E", "LDS", "STS", "LDL", "STL"])
@pytest.mark.parametrize("seed", range(3))
def test_random_addresses(memory: Memory, each: Executor, access: str, seed: int) -> None:
    """Lanes read and write at addresses of their own, good and bad: the lowest lane that fails is told."""
    chance = Random(f"{access}{seed}")
    good = {"D": [FAR, FAR + 0x400], "T": [FAR, FAR + 0x400], "S": [0, 64], "L": [0, 32, 0xFFFFF0]}[
        access[2 if "." not in access else 1]
    ]
    table = []
    for _ in range(32):
        base = chance.choice(good) + chance.choice([0, 4, 8])
        if chance.random() < 0.04:
            base = chance.choice(
                [
                    NOWHERE,
                    base + 1,
                    0xFE000000,
                    0xFF000000,
                    ROM,
                    FAR + DATA_SIZE,
                    0x1000000,
                    1 << 41,
                    0xFFFFFFFC,
                ]
            )
        table += [base & 0xFFFFFFFF, base >> 32]
    memory.put(NEAR, np.array(table, np.uint32).tobytes())
    action = f"{access} R8, [R2];" if "LD" in access else f"{access} [R2], R8;"
    memory.code(
        f"S2R R0, SR_TID.X; SHL R1, R0, 0x3; IADD32I R1, R1, {hex(NEAR)}; LD.64 R2, [R1]; {action} {USE}"
    )
    both(memory, each, memory.launch(**WINDOWS))


# Code


ILLEGAL = b"\xff" * 8


def test_an_illegal_word_counts_when_it_is_reached(memory: Memory, each: Executor) -> None:
    length = memory.code("S2R R0, SR_TID.X; ISETP.GT.AND P0, PT, R0, 0x1f, PT; @P0 BRA 0x20; EXIT;")
    memory.code(ILLEGAL, length)
    assert both(memory, each, memory.launch()) is None
    error = both(memory, each, memory.launch((64, 1, 1)))
    assert error is not None
    assert (error.kind, error.pc) == (ErrorKind.ILLEGAL_INSTRUCTION, length)


def test_code_that_is_written_over_is_translated_anew(memory: Memory, each: Executor) -> None:
    length = memory.code("S2R R0, SR_TID.X; BRA 0x10;")
    memory.code(ILLEGAL, length)
    assert both(memory, each, memory.launch()) is not None
    memory.code("EXIT;", length)
    assert both(memory, each, memory.launch()) is None
    memory.code("BPT.TRAP 0x0;", length)
    error = both(memory, each, memory.launch())
    assert error is not None
    assert error.kind is ErrorKind.TRAP


def test_operations_of_graphics_are_illegal(memory: Memory, each: Executor) -> None:
    memory.code("MOV R0, RZ; RTT; EXIT;")
    error = both(memory, each, memory.launch())
    assert error is not None
    assert (error.kind, error.pc) == (ErrorKind.ILLEGAL_INSTRUCTION, 8)


@pytest.mark.parametrize(
    "body", ["MOV R20, RZ;", "IADD R1, R20, R1;", "LD R1, [R20];", "DADD R2, R18, R4;", "LD.128 R16, [R0];"]
)
def test_a_register_past_the_launch_s(memory: Memory, each: Executor, body: str) -> None:
    memory.code(f"MOV R19, RZ; {body} EXIT;" if "18" not in body else f"MOV R17, RZ; {body} EXIT;")
    count = 19 if "18" in body or "128" in body else 20
    if "128" in body:
        memory.code(f"MOV R15, RZ; {body} EXIT;")
    error = both(memory, each, memory.launch(registers=count))
    assert error is not None
    assert (error.kind, error.pc) == (ErrorKind.OUT_OF_RANGE_REGISTER, 8)


def test_running_off_the_code(memory: Memory, each: Executor) -> None:
    memory.code(b"\0" * CODE_SIZE)
    memory.code("NOP; NOP;", CODE_SIZE - 16)
    launch = memory.launch()
    from dataclasses import replace

    error = both(memory, each, replace(launch, entry=CODE_SIZE - 16))
    assert error is not None
    assert (error.kind, error.pc, error.address) == (ErrorKind.UNMAPPED, CODE_SIZE, CODE + CODE_SIZE)


def test_an_entry_that_is_not_mapped(memory: Memory, each: Executor) -> None:
    from dataclasses import replace

    error = each.run(replace(memory.launch(), code_base=NOWHERE)).error
    assert error is not None
    assert (error.kind, error.address) == (ErrorKind.UNMAPPED, NOWHERE)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("again: CAL again;", ErrorKind.STACK),
        ("again: SSY again; BRA again;", ErrorKind.STACK),
        ("NOP.S; EXIT;", ErrorKind.STACK),
        ("BRK; EXIT;", ErrorKind.STACK),
        ("CONT; EXIT;", ErrorKind.STACK),
        ("RET; EXIT;", ErrorKind.STACK),
        ("LONGJMP; EXIT;", ErrorKind.STACK),
        ("PBK end; NOP.S; end: EXIT;", ErrorKind.STACK),
        ("BPT.TRAP 0x0; EXIT;", ErrorKind.TRAP),
    ],
)
def test_the_stack_and_traps(memory: Memory, each: Executor, text: str, kind: ErrorKind) -> None:
    memory.code(text)
    error = both(memory, each, memory.launch(stack_size=1024))
    assert error is not None
    assert error.kind is kind


def test_a_barrier_that_never_opens(memory: Memory, each: Executor) -> None:
    memory.code(
        "S2R R0, SR_TID.X; ISETP.LT.AND P0, PT, R0, 0x20, PT; @P0 BAR.SYNC 0x1, 0x60; BAR.SYNC 0x2, RZ; EXIT;"
    )
    error = both(memory, each, memory.launch((64, 1, 1)))
    assert error is not None
    assert error.kind is ErrorKind.TRAP


def test_a_barrier_the_launch_does_not_have(memory: Memory, each: Executor) -> None:
    memory.code("BAR.SYNC 0x3, RZ; EXIT;")
    error = both(memory, each, memory.launch(barriers=3))
    assert error is not None
    assert error.kind is ErrorKind.BAD_LAUNCH


@pytest.mark.parametrize(
    "change",
    [{"block": (0, 1, 1)}, {"block": (2048, 1, 1)}, {"grid": (0, 1, 1)}, {"registers": 64}, {"registers": 0},
     {"shared_size": 1 << 20}, {"local_positive": 1 << 24}, {"entry": 1 << 40}, {"code_base": 1 << 50}],
)  # fmt: skip
def test_launches_that_no_chip_takes(memory: Memory, executor: Executor, change: dict[str, object]) -> None:
    from dataclasses import replace

    memory.code("EXIT;")
    error = executor.run(replace(memory.launch(), **change)).error  # type: ignore[arg-type]
    assert error is not None
    assert error.kind is ErrorKind.BAD_LAUNCH


# Stopping


@pytest.mark.parametrize("text", ["again: BRA again;", "SSY end; again: IADD R1, R1, 0x1; BRA again; end: EXIT;",
                                  "again: CAL some; BRA again; some: RET;", "again: BAR.SYNC 0x0, RZ; BRA again;"])  # fmt: skip
def test_an_endless_loop_is_killed(memory: Memory, each: Executor, text: str) -> None:
    memory.code(text)
    stop = StopFlag()
    timer = threading.Timer(0.2, stop.kill)
    timer.start()
    outcome = each.run(memory.launch((64, 1, 1), (4, 1, 1)), stop)
    timer.join()
    assert outcome.error is not None
    assert outcome.error.kind is ErrorKind.STOPPED


def test_a_launch_is_killed_while_its_threads_go_to_rest(memory: Memory, executor: Executor) -> None:
    """Threads that stand at a loop's back-edge see a kill that comes before the launch was given back."""
    memory.code("again: BRA again;")
    launch = memory.launch((8, 1, 1), (4, 1, 1))
    for attempt in range(60):
        stop, outcomes = StopFlag(parkable=True), []
        worker = threading.Thread(target=lambda: outcomes.append(executor.run(launch, stop)), daemon=True)  # noqa: B023
        worker.start()
        time.sleep(0.002 + attempt % 5 * 0.0005)
        stop.park()
        for _ in range(attempt * 20):
            pass
        stop.kill()
        worker.join(20)
        assert not worker.is_alive(), attempt
        if outcomes[0].parked is not None:
            executor.drop(outcomes[0].parked)


COUNT = f"""
    S2R R0, SR_CTAID.X; SHL R0, R0, 0x2; IADD32I R0, R0, {hex(NEAR)}; MOV32I R1, 0x1;
    S2R R4, SR_TID.X; ISETP.EQ.AND P0, PT, R4, RZ, PT; MOV32I R2, 0x2000;
  again: IADD R2, R2, -0x1; ISETP.NE.AND P1, PT, R2, RZ, PT; @P1 BRA again;
    @P0 RED.ADD [R0], R1; EXIT;
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_a_preempted_launch_goes_on_where_it_stopped(memory: Memory, cache: Path, threads: int) -> None:
    """Every block runs exactly once, whenever the launch is stopped."""
    from dataclasses import replace

    blocks, turns = 2000, 0
    memory.code(COUNT)
    with Executor(threads, cache) as executor:
        for _ in range(50):
            # A busy machine may fire the timer only when all is over.
            memory.put(NEAR, bytes(4 * blocks))
            first = turns = 0
            while True:
                stop = StopFlag()
                timer = threading.Timer(0.005 if turns < 5 else 60, stop.preempt)
                timer.start()
                outcome = executor.run(replace(memory.launch(grid=(blocks, 1, 1)), first_block=first), stop)
                timer.cancel()
                turns += 1
                assert outcome.blocks_done >= first
                first = outcome.blocks_done
                if outcome.error is None:
                    break
                assert outcome.error.kind is ErrorKind.STOPPED
                done = memory.words(NEAR, blocks)
                assert (done[:first] == 1).all()
                assert not done[first:].any()
            assert first == blocks
            assert (memory.words(NEAR, blocks) == 1).all()
            if turns > 1:
                break
    assert turns > 1


def test_a_stop_before_the_launch(memory: Memory, executor: Executor) -> None:
    memory.code("EXIT;")
    stop = StopFlag()
    stop.preempt()
    outcome = executor.run(memory.launch(grid=(64, 1, 1)), stop)
    assert outcome.error is not None
    assert (outcome.error.kind, outcome.blocks_done) == (ErrorKind.STOPPED, 0)
    stop.clear()
    assert executor.run(memory.launch(grid=(64, 1, 1)), stop).error is None


# Many at once


def test_many_threads_fault_while_others_run(cache: Path) -> None:
    """Four host threads, each with an executor and a memory of its own: half of the launches fault."""
    wrong: list[str] = []

    def work(number: int) -> None:
        memory = Memory()
        with Executor(2, cache) as executor:
            for turn in range(40):
                bad = (turn + number) % 2
                memory.code(f"{THREAD} {near(NOWHERE if bad else FAR)} IADD R2, R2, R1; ST.E [R2], R0; EXIT;")
                memory.restore(bytes(2 * DATA_SIZE))
                outcome = executor.run(memory.launch((128, 1, 1), (20, 1, 1)))
                if bad:
                    if (
                        outcome.error is None
                        or outcome.error.kind is not ErrorKind.UNMAPPED
                        or not 0 <= outcome.error.address - NOWHERE < 512
                        or not outcome.error.write
                    ):
                        wrong.append(f"{number}.{turn}: {outcome.error}")
                elif outcome.error or list(memory.words(FAR, 128)) != list(range(128)):
                    wrong.append(f"{number}.{turn}: {outcome.error} or wrong data")
        memory.close()

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong, wrong[:4]


def test_one_executor_serves_many_threads(memory: Memory, executor: Executor) -> None:
    """A launch that never ends holds up no other; one that faults spoils none."""
    memory.code("again: BRA again;")
    endless = memory.launch((32, 1, 1), (8, 1, 1))
    stop = StopFlag()
    ends: list[ErrorKind | None] = []

    def spin() -> None:
        error = executor.run(endless, stop).error
        ends.append(error.kind if error else None)

    worker = threading.Thread(target=spin)
    worker.start()
    time.sleep(0.1)
    other = Memory()
    try:
        for bad in (False, True, False):
            other.code(f"{THREAD} {near(NOWHERE if bad else FAR)} IADD R2, R2, R1; ST.E [R2], R0; EXIT;")
            error = executor.run(other.launch((64, 1, 1), (8, 1, 1))).error
            assert (error is not None) == bad
    finally:
        stop.kill()
        worker.join()
        other.close()
    assert ends == [ErrorKind.STOPPED]


def test_a_fault_leaves_nothing_behind(memory: Memory, single: Executor) -> None:
    """Rounding mode, barriers, locks and local memory are as before after any number of faults."""
    memory.code(
        f"{near(NOWHERE)} FADD.RP R4, R4, 1.0; BAR.ARV 0x0, 0x60; LDSLK P0, R5, [0x0]; STL [0x0], R2; FMUL.RM R4, R4, R4;"
        f" LD.E R8, [R2]; {USE}"
    )
    for _ in range(50):
        error = single.run(memory.launch((64, 1, 1), **WINDOWS)).error
        assert error is not None
        assert error.kind is ErrorKind.UNMAPPED
    memory.code(
        f"{THREAD} MOV32I R4, 0x3f800000; MOV32I R5, 0x33000000; FADD R6, R4, R5; LDSLK P0, R7, [0x4]; @P0 STSUL [0x4], R7;"
        f" BAR.SYNC 0x0, RZ; IADD32I R1, R1, {hex(NEAR)}; ST [R1], R6; EXIT;"
    )
    assert single.run(memory.launch((64, 1, 1), **WINDOWS)).error is None
    assert set(memory.words(NEAR, 64)) == {0x3F800000}


# The process


def run_python(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=120, check=False
    )


PRELUDE = """
import ctypes, faulthandler, signal, sys, threading
faulthandler.enable()
from gpuvm.jit.executor import Executor
from gpuvm.jit.space import AccessError
from gpuvm.jit.launch import Launch
from gpuvm.jit.space import AddressSpace
from gpuvm.pci.memory import MemoryRegion
from gpuvm.isa.assembler import assemble
region, space = MemoryRegion(4096), AddressSpace()
region.write(0, assemble("MOV R0, RZ; ST [R0], R0; EXIT;"))
space.map(0x10000, 4096, region.fd, 0, False)
executor = Executor(2)
error = executor.run(Launch(space, 0x10000, 0, (4, 1, 1), (32, 1, 1))).error
print("kernel:", error.kind.name, flush=True)
"""


def test_a_crash_of_the_host_is_still_reported() -> None:
    """A fault outside translated code goes to the handler that was there: Python's, which prints the stack."""
    done = run_python(PRELUDE + "def culprit():\n    ctypes.string_at(8)\nculprit()\n")
    assert "kernel: UNMAPPED" in done.stdout
    assert done.returncode < 0
    assert "Segmentation fault" in done.stderr
    assert "culprit" in done.stderr


def test_a_crash_without_a_handler_ends_the_process() -> None:
    done = run_python(PRELUDE.replace("faulthandler.enable()", "") + "ctypes.string_at(8)\n")
    assert "kernel: UNMAPPED" in done.stdout
    assert done.returncode == -11


def test_a_handler_that_comes_later_does_not_break_kernels() -> None:
    done = run_python(
        PRELUDE
        + "faulthandler.disable(); faulthandler.enable()\n"
        + "error = executor.run(Launch(space, 0x10000, 0, (4, 1, 1), (32, 1, 1))).error\nprint('again:', error.kind.name)\n"
    )
    assert "again: UNMAPPED" in done.stdout, done.stderr
    assert done.returncode == 0
