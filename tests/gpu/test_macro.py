"""The macro processor: macros written word by word, as a driver uploads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuvm.gpu.classes import macro
from gpuvm.gpu.classes.macro import MacroMemory, MacroTrap

SCRATCH = 0x3400
MOVE, MOVE_ADDRESS, SEND_PARAM, SEND, ADDRESS_SEND_PARAM, ADDRESS_SEND_HIGH = 1, 2, 3, 4, 6, 7
EXIT = 0x80
NOP = 0x11


def add_immediate(use, to=0, source=0, value=0):
    return 1 | use << 4 | to << 8 | source << 11 | (value & 0x3FFFF) << 14


def alu(function, use, to, first, second):
    return use << 4 | to << 8 | first << 11 | second << 14 | function << 17


def field(operation, use, to, first, second, source, size, target):
    return (
        operation | use << 4 | to << 8 | first << 11 | second << 14 | source << 17 | size << 22 | target << 27
    )


def branch(source, distance, non_zero=False, annul=False, leave=False):
    return 7 | non_zero << 4 | annul << 5 | leave << 7 | source << 11 | (distance & 0x3FFFF) << 14


def address(method, increment=1, use=MOVE_ADDRESS):
    return add_immediate(use, value=method >> 2 | increment << 12)


PARAM = 1  # add 0 to 0, ignore it, take a parameter


def param(to):
    return PARAM | to << 8


def execute(words, *parameters, state=None, entry=0):
    """Run a macro with all its parameters; return what it sent."""
    memory = MacroMemory()
    for at, word in enumerate(words):
        memory.code[entry + at] = word
    memory.entries[5] = entry
    sent = []
    running = macro.run(memory, 5, parameters[0], (state or {}).__getitem__)
    left = list(parameters[1:])
    value = None
    while True:
        try:
            request = running.send(value)
        except StopIteration:
            assert not left
            return sent
        value = None
        if request is not None:
            sent.append(request)
        else:
            assert left, "the macro waits for more parameters"
            value = left.pop(0)


def test_parameters_are_sent_to_consecutive_methods():
    words = [address(0x1000), add_immediate(SEND, source=1), param(2), param(3),
             add_immediate(SEND, source=3) | EXIT, add_immediate(SEND, source=2)]  # fmt: skip
    assert execute(words, 7, 8, 9) == [(0x1000, 7), (0x1004, 9), (0x1008, 8)]


def test_a_loop_has_a_delay_slot_and_ends_by_exit():
    words = [
        address(0x2000, increment=0),
        add_immediate(MOVE, 1, 1, -1),
        branch(1, -1, non_zero=True),
        add_immediate(SEND, source=1),
        NOP | EXIT,
        add_immediate(SEND, value=99),
    ]
    assert [value for _, value in execute(words, 3)] == [2, 1, 0, 99]


def test_an_annulled_branch_skips_its_slot_only_when_taken():
    words = [address(0x2000, 0), branch(1, 2, annul=True), add_immediate(SEND, value=1), NOP | EXIT, NOP]
    assert execute(words, 0) == []
    assert execute(words, 1) == [(0x2000, 1)]


def test_exit_on_a_branch_that_is_not_taken():
    words = [address(0x2000, 0), branch(1, 3, leave=True), add_immediate(SEND, value=1), add_immediate(SEND, value=2),
             NOP | EXIT, add_immediate(SEND, value=3)]  # fmt: skip
    assert [value for _, value in execute(words, 5)] == [1]
    assert [value for _, value in execute(words, 0)] == [1, 3]


def test_address_and_data_in_one_instruction():
    words = [address(0x1234, use=ADDRESS_SEND_PARAM), add_immediate(ADDRESS_SEND_HIGH, value=0x2A << 12 | 0x400) | EXIT,
             NOP]  # fmt: skip
    assert execute(words, 0, 77) == [(0x1234, 77), (0x1000, 0x2A)]


def test_what_methods_were_set_to_can_be_read():
    words = [0x15 | 2 << 8 | 1 << 11 | (SCRATCH >> 2) << 14, address(0x1000),
             add_immediate(SEND, source=2) | EXIT, NOP]  # fmt: skip
    assert execute(words, 3, state={SCRATCH + 12: 0xABCD}) == [(0x1000, 0xABCD)]


words32 = st.integers(0, 0xFFFFFFFF)


@given(words32, words32, words32, words32)
def test_wide_sums_and_differences(a_low, a_high, b_low, b_high):
    start = [param(2), param(3), param(4), address(0x1000)]
    for low, high, expected in ((0, 1, a_low + (a_high << 32) + b_low + (b_high << 32)),
                                (2, 3, a_low + (a_high << 32) - b_low - (b_high << 32))):  # fmt: skip
        words = [*start, alu(low, SEND, 5, 1, 3), alu(high, SEND, 6, 2, 4) | EXIT, NOP]
        sent = execute(words, a_low, a_high, b_low, b_high)
        assert [value for _, value in sent] == [expected & 0xFFFFFFFF, expected >> 32 & 0xFFFFFFFF]


@given(words32, words32, st.integers(0, 31), st.integers(0, 31), st.integers(0, 31))
def test_bit_fields(a, b, source, size, target):
    mask = (1 << size) - 1
    words = [param(2), address(0x1000),
             field(2, SEND, 0, 1, 2, source, size, target),
             add_immediate(MOVE, 3, value=source),
             field(3, SEND, 0, 3, 2, 0, size, target),
             add_immediate(MOVE, 4, value=target),
             field(4, SEND, 0, 4, 2, source, size, 0) | EXIT, NOP]  # fmt: skip
    inserted, first, second = (value for _, value in execute(words, a, b))
    piece = b >> source & mask
    assert inserted == (a & ~(mask << target) | piece << target) & 0xFFFFFFFF
    assert first == second == piece << target & 0xFFFFFFFF


@pytest.mark.parametrize(("function", "expected"), [
    (8, 0b0110), (9, 0b1110), (10, 0b1000), (11, 0b0100), (12, 0xFFFFFFF7),
])  # fmt: skip
def test_logic(function, expected):
    words = [param(2), address(0x1000), alu(function, SEND, 0, 1, 2) | EXIT, NOP]
    assert execute(words, 0b1100, 0b1010)[0][1] == expected


@pytest.mark.parametrize(("words", "bit"), [
    ([6], macro.ILLEGAL_OPCODE),
    ([alu(5, MOVE, 1, 0, 0)], macro.ILLEGAL_OPCODE),
    ([branch(0, 2), branch(0, 2)], macro.DOUBLE_BRANCH),
    ([branch(0, 0, annul=True)], macro.TIMEOUT),
])  # fmt: skip
def test_what_a_macro_must_not_do(words, bit):
    with pytest.raises(MacroTrap) as trap:
        execute(words, 0)
    assert trap.value.bits == bit


# On a channel

TARGET = 0x2000_0000


@pytest.fixture
def channel(rig):
    made = rig.channel()
    made.memory = rig.take(0x10000)
    made.tables.map(TARGET, made.memory, 0x10000)
    return made


def upload(push, words, number=2, at=0x40):
    return push.method(0, 0, 0x9097).method(0, 0x114, at).same(0, 0x118, *words).method(0, 0x11C, number, at)


RELEASE = [address(0x1B00), add_immediate(SEND, value=0), add_immediate(SEND, source=1), param(2),
           add_immediate(SEND, source=2), NOP | EXIT, field(4, SEND, 0, 0, 1, 0, 0, 0)]  # fmt: skip
"""Sets QUERY_ADDRESS and QUERY_SEQUENCE, then QUERY_GET to 0: a long report."""


def test_a_macro_uses_the_classes_methods(rig, push, channel):
    """The parameters come in a run, in two runs, and as immediates: all the same to the macro."""
    call = 0x3800 + 8 * 2
    channel.run(upload(push(), RELEASE).once(0, call, TARGET, 41))
    assert rig.peek(channel.memory) == 41
    channel.run(push().method(0, call, TARGET + 16).method(0, call + 4, 42))
    assert rig.peek(channel.memory + 16) == 42
    assert rig.peek(channel.memory + 24) | rig.peek(channel.memory + 28), "the report has the time"


def test_macros_outlive_the_object_and_serve_every_class(rig, push, channel):
    channel.run(upload(push(), RELEASE))
    channel.run(push().method(1, 0, 0x90C0).once(1, 0x3810, TARGET + 32, 7))
    assert rig.peek(channel.memory + 32) == 7


def acknowledge(rig):
    rig.wr(0x404490, 0xC0000000)
    rig.wr(0x400108, 0x80)
    rig.wr(0x400100, 0xFFFFFFFF)


@pytest.mark.parametrize(("bit", "calls"), [
    (0, lambda push: push.method(0, 0x3810, TARGET).method(0, 0x100, 0)),
    (1, lambda push: push.once(0, 0x3810, TARGET, 1, 2)),
    (2, lambda push: push.method(0, 0x3818, 0)),
])  # fmt: skip
def test_a_trap_of_the_macro_processor_is_told_and_survived(rig, push, channel, bit, calls):
    bad = upload(push(), [6], number=3, at=0x100)
    channel.run(upload(bad, RELEASE))
    channel.submit(calls(push()))
    rig.until(lambda: rig.rd(0x400100) & 0x200000, "TRAP")
    assert rig.rd(0x400108) == 0x80
    assert rig.rd(0x404490) & 0x1FFFFFFF == 1 << bit
    assert rig.rd(0x404494) >> 28 == 1
    acknowledge(rig)
    assert rig.rd(0x404490) & 0x1FFFFFFF == 0
    channel.run(push().once(0, 0x3810, TARGET + 48, 5))
    assert rig.peek(channel.memory + 48) == 5


def test_a_method_that_a_macro_should_not_send_is_reported_by_its_own_name(rig, push, channel):
    words = [address(0x20C), add_immediate(SEND, value=9) | EXIT, NOP]
    channel.run(push().method(0, 0, 0x9039).method(0, 0x114, 0).same(0, 0x118, *words).method(0, 0x11C, 0, 0))
    bad = [address(0x7F0), add_immediate(SEND, value=9) | EXIT, NOP]
    channel.submit(push().method(0, 0x114, 0).same(0, 0x118, *bad).method(0, 0x3800, 0))
    rig.until(lambda: rig.rd(0x400100) & 0x10, "ILLEGAL_MTHD")
    assert rig.rd(0x400704) & 0x3FFC == 0x7F0
    assert rig.rd(0x400708) == 9


def test_a_launch_that_is_switched_out_in_a_macro_goes_on(rig, push, channel):
    """The macro stands still at the method that it sent, and takes no second copy of its parameter."""
    from gpuvm.gpu.classes.compute import Compute
    from gpuvm.gpu.classes.method import Switched

    words = [param(2), address(0x368), add_immediate(SEND, source=2), address(0x1B00),
             add_immediate(SEND), add_immediate(SEND, source=1), add_immediate(SEND, source=2),
             NOP | EXIT, add_immediate(SEND)]  # fmt: skip
    seen = []

    class Cut(Compute):
        def on_launch(self, value):
            seen.append(value)
            if len(seen) == 1:
                raise Switched

    channel.run(push().method(1, 0, 0x90C0))
    made = rig.gpu.pfifo.channels[0]
    made.objects[1] = Cut(rig.gpu, made)
    channel.run(
        push().method(1, 0x114, 0).same(1, 0x118, *words).method(1, 0x11C, 0, 0).once(1, 0x3800, TARGET, 44)
    )
    assert seen == [44, 44]
    assert rig.peek(channel.memory) == 44
