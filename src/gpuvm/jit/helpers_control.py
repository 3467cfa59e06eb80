"""Outlined control flow: the reconvergence stack in memory, and the loop that runs a block's warp groups to
barriers."""

from __future__ import annotations

from gpuvm.jit import layout as at
from gpuvm.jit.launch import ErrorKind


def stack_ir() -> str:
    """push, pop, join, leave, exit on a group's stack. `stack` is the state's stack pointer argument."""
    state = (
        f"  %p.sp = getelementptr i8, ptr %state, i64 {at.STATE_SP}\n  %sp = load i32, ptr %p.sp\n"
        f"  %p.stack = getelementptr i8, ptr %state, i64 {at.STATE_STACK}\n  %stack = load ptr, ptr %p.stack\n"
    )

    def entry(tag: str, index: str) -> str:
        return (
            f"  %{tag}.w = zext i32 {index} to i64\n  %{tag}.o = shl i64 %{tag}.w, 4\n"
            f"  %{tag} = getelementptr i8, ptr %stack, i64 %{tag}.o\n"
            f"  %{tag}.t = getelementptr i8, ptr %{tag}, i64 4\n  %{tag}.m = getelementptr i8, ptr %{tag}, i64 8\n"
        )

    def fail(pc: str) -> str:
        return f"  call void @gpuvm_fail(ptr %ctx, i32 {ErrorKind.STACK.value}, i32 {pc}, i64 0, i32 0)\n  unreachable\n"

    push = (
        "define void @gpuvm_push(ptr %ctx, ptr %state, i32 %kind, i32 %target, i64 %mask, i32 %limit, i32 %pc) ATTRS {\n"
        + state
        # Lanes that diverge to where others already wait join them: a loop's exits need one entry.
        + "  %some = icmp ugt i32 %sp, 0\n  %isdiv = icmp eq i32 %kind, 0\n  %look = and i1 %some, %isdiv\n"
        "  br i1 %look, label %same, label %fresh\nsame:\n  %below = sub i32 %sp, 1\n"
        + entry("b", "%below")
        + "  %b.kind = load i32, ptr %b\n  %b.target = load i32, ptr %b.t\n  %k0 = icmp eq i32 %b.kind, 0\n"
        "  %t0 = icmp eq i32 %b.target, %target\n  %merge = and i1 %k0, %t0\n  br i1 %merge, label %add, label %fresh\n"
        "add:\n  %b.old = load i64, ptr %b.m\n  %b.new = or i64 %b.old, %mask\n  store i64 %b.new, ptr %b.m\n  ret void\n"
        "fresh:\n  %over = icmp uge i32 %sp, %limit\n  br i1 %over, label %bad, label %put\nbad:\n"
        + fail("%pc")
        + "put:\n"
        + entry("e", "%sp")
        + "  store i32 %kind, ptr %e\n  store i32 %target, ptr %e.t\n  store i64 %mask, ptr %e.m\n"
        "  %sp1 = add i32 %sp, 1\n  store i32 %sp1, ptr %p.sp\n  ret void\n}\n"
    )
    pop = (
        "define void @gpuvm_pop(ptr %ctx, ptr %state, i32 %pc) ATTRS {\n"
        + state
        + f"  %p.active = getelementptr i8, ptr %state, i64 {at.STATE_ACTIVE}\n"
        f"  %p.pc = getelementptr i8, ptr %state, i64 {at.STATE_PC}\n"
        f"  %p.status = getelementptr i8, ptr %state, i64 {at.STATE_STATUS}\n  br label %head\n"
        "head:\n  %n = phi i32 [ %sp, %0 ], [ %n1, %turn ]\n  %empty = icmp eq i32 %n, 0\n"
        "  br i1 %empty, label %ended, label %turn\nended:\n  store i32 0, ptr %p.sp\n  store i32 2, ptr %p.status\n"
        "  store i64 0, ptr %p.active\n  ret void\nturn:\n  %n1 = sub i32 %n, 1\n"
        + entry("e", "%n1")
        + "  %mask = load i64, ptr %e.m\n  %any = icmp ne i64 %mask, 0\n  br i1 %any, label %go, label %head\n"
        "go:\n  store i32 %n1, ptr %p.sp\n  store i64 %mask, ptr %p.active\n  %target = load i32, ptr %e.t\n"
        "  store i32 %target, ptr %p.pc\n  ret void\n}\n"
    )
    # .S: the lanes wait at the innermost reconvergence point, which must be an SSY's (divergence entries
    # aside).
    join = (
        "define void @gpuvm_join(ptr %ctx, ptr %state, i64 %lanes, i32 %pc) ATTRS {\n"
        + state
        + "  %nobody = icmp eq i64 %lanes, 0\n  br i1 %nobody, label %done, label %head\n"
        "head:\n  %n = phi i32 [ %sp, %0 ], [ %n1, %turn ]\n  %empty = icmp eq i32 %n, 0\n"
        "  br i1 %empty, label %bad, label %turn\nbad:\n"
        + fail("%pc")
        + "turn:\n  %n1 = sub i32 %n, 1\n"
        + entry("e", "%n1")
        + "  %kind = load i32, ptr %e\n  %div = icmp eq i32 %kind, 0\n  br i1 %div, label %head, label %check\n"
        f"check:\n  %ssy = icmp eq i32 %kind, {at.KIND_SSY}\n  br i1 %ssy, label %ok, label %bad\nok:\n"
        f"  %p.active = getelementptr i8, ptr %state, i64 {at.STATE_ACTIVE}\n  %old = load i64, ptr %p.active\n"
        "  %not = xor i64 %lanes, -1\n  %new = and i64 %old, %not\n  store i64 %new, ptr %p.active\n"
        "  %none = icmp eq i64 %new, 0\n  br i1 %none, label %pop, label %done\npop:\n"
        "  call void @gpuvm_pop(ptr %ctx, ptr %state, i32 %pc)\n  br label %done\ndone:\n  ret void\n}\n"
    )
    leave = (
        "define void @gpuvm_leave(ptr %ctx, ptr %state, i32 %kind, i64 %lanes, i32 %pc) ATTRS {\n"
        + state
        + "  %not = xor i64 %lanes, -1\n  br label %find\nfind:\n  %n = phi i32 [ %sp, %0 ], [ %n1, %turn ]\n"
        "  %empty = icmp eq i32 %n, 0\n  br i1 %empty, label %bad, label %turn\nbad:\n"
        + fail("%pc")
        + "turn:\n  %n1 = sub i32 %n, 1\n"
        + entry("e", "%n1")
        + "  %k = load i32, ptr %e\n  %hit = icmp eq i32 %k, %kind\n  br i1 %hit, label %strip, label %find\n"
        "strip:\n  %i0 = add i32 %n1, 1\n  br label %each\neach:\n  %i = phi i32 [ %i0, %strip ], [ %i1, %clear ]\n"
        "  %more = icmp ult i32 %i, %sp\n  br i1 %more, label %clear, label %done\nclear:\n"
        + entry("c", "%i")
        + "  %c.old = load i64, ptr %c.m\n  %c.new = and i64 %c.old, %not\n  store i64 %c.new, ptr %c.m\n"
        "  %i1 = add i32 %i, 1\n  br label %each\ndone:\n"
        f"  %p.active = getelementptr i8, ptr %state, i64 {at.STATE_ACTIVE}\n  %old = load i64, ptr %p.active\n"
        "  %new = and i64 %old, %not\n  store i64 %new, ptr %p.active\n  ret void\n}\n"
    )
    leave_exit = (
        "define void @gpuvm_exit(ptr %state, i64 %lanes) ATTRS {\n" + state + "  %not = xor i64 %lanes, -1\n"
        f"  %p.active = getelementptr i8, ptr %state, i64 {at.STATE_ACTIVE}\n  %old = load i64, ptr %p.active\n"
        "  %new = and i64 %old, %not\n  store i64 %new, ptr %p.active\n  br label %each\n"
        "each:\n  %i = phi i32 [ 0, %0 ], [ %i1, %clear ]\n  %more = icmp ult i32 %i, %sp\n"
        "  br i1 %more, label %clear, label %done\nclear:\n"
        + entry("c", "%i")
        + "  %c.old = load i64, ptr %c.m\n  %c.new = and i64 %c.old, %not\n  store i64 %c.new, ptr %c.m\n"
        "  %i1 = add i32 %i, 1\n  br label %each\ndone:\n  ret void\n}\n"
    )
    return push + pop + join + leave + leave_exit


def blocks_ir() -> str:
    """`gpuvm_arrive` counts at a barrier; `gpuvm_blocks` runs the groups of one block until all have
    ended."""
    bar = (
        f"  %p.bars = getelementptr i8, ptr %ctx, i64 {at.BARRIERS}\n  %bars = load ptr, ptr %p.bars\n"
        f"  %b.w = zext i32 %id to i64\n  %b.o = mul i64 %b.w, {at.BARRIER_SIZE}\n"
        "  %b = getelementptr i8, ptr %bars, i64 %b.o\n  %b.expected = getelementptr i8, ptr %b, i64 4\n"
        "  %b.popc = getelementptr i8, ptr %b, i64 12\n  %b.and = getelementptr i8, ptr %b, i64 16\n"
        "  %b.or = getelementptr i8, ptr %b, i64 20\n"
    )
    arrive = (
        "define void @gpuvm_arrive(ptr %ctx, i32 %id, i32 %count, i32 %unused) ATTRS {\n"
        + bar
        + "  %old = load i32, ptr %b\n  %new = add i32 %old, 1\n  store i32 %new, ptr %b\n"
        "  store i32 %count, ptr %b.expected\n  ret void\n}\n"
    )
    g = "  %g.w = zext i32 %g to i64\n  %g.o = mul i64 %g.w, %stride\n  %s = getelementptr i8, ptr %states, i64 %g.o\n"
    blocks = (
        # groups: low 16 bits count, high 16 bits lanes of a group. The function is called (ctx, state,
        # group).
        "define void @gpuvm_blocks(ptr %ctx, ptr %warp, i32 %shape, i64 %stride) ATTRS {\nentry:\n"
        "  %groups = and i32 %shape, 65535\n  %lanes = lshr i32 %shape, 16\n"
        f"  %p.states = getelementptr i8, ptr %ctx, i64 {at.STATES}\n  %states = load ptr, ptr %p.states\n"
        f"  %p.bars0 = getelementptr i8, ptr %ctx, i64 {at.BARRIERS}\n  %bars0 = load ptr, ptr %p.bars0\n"
        f"  call void @llvm.memset.p0.i64(ptr %bars0, i8 0, i64 {16 * at.BARRIER_SIZE}, i1 false)\n  br label %init\n"
        "init:\n  %i = phi i32 [ 0, %entry ], [ %i1, %init ]\n  %i.w = zext i32 %i to i64\n  %i.o = mul i64 %i.w, %stride\n"
        "  %i.s = getelementptr i8, ptr %states, i64 %i.o\n"
        "  call void @llvm.memset.p0.i64(ptr %i.s, i8 0, i64 64, i1 false)\n"
        "  %i1 = add i32 %i, 1\n  %i.more = icmp ult i32 %i1, %groups\n  br i1 %i.more, label %init, label %pass\n"
        # One pass over the groups.
        "pass:\n  br label %group\ngroup:\n  %g = phi i32 [ 0, %pass ], [ %g1, %next ]\n"
        "  %alive = phi i32 [ 0, %pass ], [ %alive1, %next ]\n  %ran = phi i32 [ 0, %pass ], [ %ran1, %next ]\n"
        + g
        + f"  %p.status = getelementptr i8, ptr %s, i64 {at.STATE_STATUS}\n  %status = load i32, ptr %p.status\n"
        "  %ready = icmp eq i32 %status, 0\n  br i1 %ready, label %run, label %look\n"
        "run:\n  call void %warp(ptr %ctx, ptr %s, i32 %g)\n  %after = load i32, ptr %p.status\n"
        "  %waits = icmp eq i32 %after, 1\n  br i1 %waits, label %at.bar, label %look2\n"
        "at.bar:\n"
        f"  %p.id = getelementptr i8, ptr %s, i64 {at.STATE_BARRIER}\n  %id = load i32, ptr %p.id\n"
        f"  %p.count = getelementptr i8, ptr %s, i64 {at.STATE_COUNT}\n  %count = load i32, ptr %p.count\n"
        f"  %p.popc = getelementptr i8, ptr %s, i64 {at.STATE_POPC}\n  %popc = load i32, ptr %p.popc\n"
        f"  %p.and = getelementptr i8, ptr %s, i64 {at.STATE_AND}\n  %and = load i32, ptr %p.and\n"
        f"  %p.or = getelementptr i8, ptr %s, i64 {at.STATE_OR}\n  %or = load i32, ptr %p.or\n"
        + bar
        + "  %b.old = load i32, ptr %b\n  %b.new = add i32 %b.old, 1\n  store i32 %b.new, ptr %b\n"
        "  store i32 %count, ptr %b.expected\n"
        "  %r0 = load i32, ptr %b.popc\n  %r1 = add i32 %r0, %popc\n  store i32 %r1, ptr %b.popc\n"
        # AND is kept inverted so that a cleared barrier starts right.
        "  %and.not = xor i32 %and, -1\n  %r2 = load i32, ptr %b.and\n  %r3 = or i32 %r2, %and.not\n  store i32 %r3, ptr %b.and\n"
        "  %r4 = load i32, ptr %b.or\n  %r5 = or i32 %r4, %or\n  store i32 %r5, ptr %b.or\n"
        "  %rel = call i32 @release(ptr %ctx, ptr %states, i32 %id, i32 %groups, i64 %stride, i32 %lanes)\n"
        "  br label %look2\n"
        "look:\n  br label %next\nlook2:\n  br label %next\n"
        "next:\n  %did = phi i32 [ 0, %look ], [ 1, %look2 ]\n  %ran1 = or i32 %ran, %did\n"
        "  %st = load i32, ptr %p.status\n  %ended = icmp eq i32 %st, 2\n  %one = select i1 %ended, i32 0, i32 1\n"
        "  %alive1 = add i32 %alive, %one\n  %g1 = add i32 %g, 1\n  %more = icmp ult i32 %g1, %groups\n"
        "  br i1 %more, label %group, label %judge\n"
        "judge:\n  %over = icmp eq i32 %alive1, 0\n  br i1 %over, label %out, label %bars.start\n"
        # Groups that ended lower what a whole-block barrier waits for.
        "bars.start:\n  br label %bars.each\nbars.each:\n  %k = phi i32 [ 0, %bars.start ], [ %k1, %bars.each ]\n"
        "  %freed = phi i32 [ 0, %bars.start ], [ %freed1, %bars.each ]\n"
        "  %f = call i32 @release(ptr %ctx, ptr %states, i32 %k, i32 %groups, i64 %stride, i32 %lanes)\n"
        "  %freed1 = or i32 %freed, %f\n  %k1 = add i32 %k, 1\n  %k.more = icmp ult i32 %k1, 16\n"
        "  br i1 %k.more, label %bars.each, label %decide\n"
        "decide:\n  %progress = or i32 %freed1, %ran1\n  %stuck = icmp eq i32 %progress, 0\n"
        "  br i1 %stuck, label %dead, label %pass\n"
        f"dead:\n  call void @gpuvm_fail(ptr %ctx, i32 {ErrorKind.TRAP.value}, i32 -1, i64 0, i32 0)\n  unreachable\n"
        "out:\n  ret void\n}\n"
    )
    release = (
        "define internal i32 @release(ptr %ctx, ptr %states, i32 %id, i32 %groups, i64 %stride, i32 %lanes) ATTRS {\nentry:\n"
        + bar
        + "  %arrived = load i32, ptr %b\n  %none = icmp eq i32 %arrived, 0\n  br i1 %none, label %no, label %want\n"
        "no:\n  ret i32 0\nwant:\n  %expected = load i32, ptr %b.expected\n  %all = icmp eq i32 %expected, 0\n"
        "  br i1 %all, label %count, label %given\n"
        "given:\n  %up = add i32 %expected, %lanes\n  %up1 = sub i32 %up, 1\n  %need1 = udiv i32 %up1, %lanes\n  br label %judge\n"
        "count:\n  br label %each\neach:\n  %g = phi i32 [ 0, %count ], [ %g1, %each ]\n"
        "  %alive = phi i32 [ 0, %count ], [ %alive1, %each ]\n"
        + g
        + f"  %p.status = getelementptr i8, ptr %s, i64 {at.STATE_STATUS}\n  %status = load i32, ptr %p.status\n"
        "  %ended = icmp eq i32 %status, 2\n  %one = select i1 %ended, i32 0, i32 1\n  %alive1 = add i32 %alive, %one\n"
        "  %g1 = add i32 %g, 1\n  %more = icmp ult i32 %g1, %groups\n  br i1 %more, label %each, label %judge\n"
        "judge:\n  %need = phi i32 [ %need1, %given ], [ %alive1, %each ]\n  %enough = icmp uge i32 %arrived, %need\n"
        "  br i1 %enough, label %open, label %no\n"
        "open:\n  %popc = load i32, ptr %b.popc\n  %and.not = load i32, ptr %b.and\n  %and = xor i32 %and.not, -1\n"
        "  %or = load i32, ptr %b.or\n"
        f"  call void @llvm.memset.p0.i64(ptr %b, i8 0, i64 {at.BARRIER_SIZE}, i1 false)\n  br label %wake\n"
        "wake:\n  %h = phi i32 [ 0, %open ], [ %h1, %woken ]\n  %h.w = zext i32 %h to i64\n  %h.o = mul i64 %h.w, %stride\n"
        "  %h.s = getelementptr i8, ptr %states, i64 %h.o\n"
        f"  %h.status = getelementptr i8, ptr %h.s, i64 {at.STATE_STATUS}\n  %h.st = load i32, ptr %h.status\n"
        f"  %h.id = getelementptr i8, ptr %h.s, i64 {at.STATE_BARRIER}\n  %h.bar = load i32, ptr %h.id\n"
        "  %w1 = icmp eq i32 %h.st, 1\n  %w2 = icmp eq i32 %h.bar, %id\n  %w = and i1 %w1, %w2\n"
        "  br i1 %w, label %free, label %woken\n"
        "free:\n  store i32 0, ptr %h.status\n"
        f"  %h.popc = getelementptr i8, ptr %h.s, i64 {at.STATE_POPC}\n  store i32 %popc, ptr %h.popc\n"
        f"  %h.and = getelementptr i8, ptr %h.s, i64 {at.STATE_AND}\n  store i32 %and, ptr %h.and\n"
        f"  %h.or = getelementptr i8, ptr %h.s, i64 {at.STATE_OR}\n  store i32 %or, ptr %h.or\n  br label %woken\n"
        "woken:\n  %h1 = add i32 %h, 1\n  %h.more = icmp ult i32 %h1, %groups\n  br i1 %h.more, label %wake, label %done\n"
        "done:\n  ret i32 1\n}\n"
    )
    return arrive + release + blocks
