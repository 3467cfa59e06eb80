"""Native entry, exit and fault handling: how a thread gets into translated code and always comes back out of
it.

The runtime here is LLVM IR and a little assembly, loaded once per process:

- `gpuvm_enter(function, context)` saves the callee-saved registers, notes the stack pointer in the context
and calls.
- `gpuvm_escape` is the one way out: it restores from that stack pointer. `gpuvm_raise(context)` jumps there.
- `gpuvm_handler` serves SIGSEGV and SIGBUS: in a thread that is inside translated code it records address,
direction
  and instruction pointer in the context and returns to `gpuvm_escape`; other faults go to the handler that
  was there.
- `gpuvm_pool_run` and `gpuvm_worker` run one job on several threads; they wait on futexes, without the
interpreter. `gpuvm_rouse` says that a job is about to come: workers look out for it before they sleep again.
- `gpuvm_crew` runs a job on the threads of a pool alone, so that they can be parked in the middle of a thread
block
  while the caller goes on with something else: translated code polls its stop word at loop back-edges and
  traps
  there; the handler waits (`gpuvm_park`) until the word changes, and returns into the loop with all registers
  as they
  were.
"""

from __future__ import annotations

import ctypes
import threading

from gpuvm.jit import layout as at
from gpuvm.jit.cache import DiskCache, Entry
from gpuvm.jit.helpers import SIGNATURES, helpers_ir
from gpuvm.jit.native import Library, Target, libc_address, target

# Pool: i32 sequence, i32 pending, i32 quit, i32 workers, ptr job; i32 event, i32 parked, i64 deadline of a crew.
POOL_SEQUENCE, POOL_PENDING, POOL_QUIT, POOL_WORKERS, POOL_JOB = 0, 64, 128, 132, 136
POOL_EVENT, POOL_PARKED, POOL_DEADLINE, POOL_SIZE = 192, 196, 200, 256

ROUSED_SPINS = 3000
"""Pauses (20 to 50 ns each) for which a worker that was woken looks out for its job."""

_ASSEMBLY = f"""
.text
.globl gpuvm_enter
.type gpuvm_enter,@function
.p2align 4
gpuvm_enter:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  subq $8, %rsp
  stmxcsr (%rsp)
  movq %rsp, {at.SAVED_SP}(%rsi)
  movq %rdi, %rax
  movq %rsi, %rdi
  callq *%rax
.globl gpuvm_escape
gpuvm_escape:
  ldmxcsr (%rsp)
  addq $8, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  retq
.size gpuvm_enter, .-gpuvm_enter
.globl gpuvm_raise
.type gpuvm_raise,@function
.p2align 4
gpuvm_raise:
  movq {at.SAVED_SP}(%rdi), %rsp
  jmp gpuvm_escape
.size gpuvm_raise, .-gpuvm_raise
"""

# ucontext_t of x86-64 Linux: gregs start at 40; RSP is the 15th, RIP the 16th, EFL the 17th, ERR the 19th.
_RSP, _RIP, _EFL, _ERR = (40 + 8 * n for n in (15, 16, 17, 19))

_IR = """
declare void @gpuvm_enter(ptr, ptr)
declare void @gpuvm_escape()
declare ptr @pthread_getspecific(i32)
declare i32 @pthread_setspecific(i32, ptr)
declare i32 @sigaction(i32, ptr, ptr)
declare i64 @syscall(i64, ...)

@gpuvm_key = global i32 0
@gpuvm_previous = global [32 x [152 x i8]] zeroinitializer
@gpuvm_chained = global i32 0

define void @gpuvm_run(ptr %function, ptr %context) ATTRS {
  %key = load i32, ptr @gpuvm_key
  %before = call ptr @pthread_getspecific(i32 %key)
  %slot = getelementptr i8, ptr %context, i64 PREVIOUS
  store ptr %before, ptr %slot
  %a = call i32 @pthread_setspecific(i32 %key, ptr %context)
  call void @gpuvm_enter(ptr %function, ptr %context)
  CLEAR_VECTORS
  %again = load i32, ptr @gpuvm_key
  %back = load ptr, ptr %slot
  %b = call i32 @pthread_setspecific(i32 %again, ptr %back)
  ret void
}

define void @gpuvm_handler(i32 %signal, ptr %info, ptr %machine) ATTRS {
  %key = load i32, ptr @gpuvm_key
  %context = call ptr @pthread_getspecific(i32 %key)
  %inside = icmp ne ptr %context, null
  br i1 %inside, label %which, label %other
which:
  %illegal = icmp eq i32 %signal, 4
  br i1 %illegal, label %trapped, label %guest
trapped:
  %t.ip = getelementptr i8, ptr %machine, i64 RIP
  %t.at = load i64, ptr %t.ip
  %t.code = inttoptr i64 %t.at to ptr
  %t.mark = load i32, ptr %t.code, align 1
  %t.parks = icmp eq i32 %t.mark, PARK_MARK
  br i1 %t.parks, label %parks, label %other
parks:
  %told = call i32 @gpuvm_park(ptr %context)
  %kill = icmp eq i32 %told, 2
  br i1 %kill, label %killed, label %resumed
resumed:
  %t.next = add i64 %t.at, 4
  store i64 %t.next, ptr %t.ip
  ret void
killed:
  %k.kind = getelementptr i8, ptr %context, i64 ERROR_KIND
  store i32 -2, ptr %k.kind
  br label %leave
guest:
  %p.address = getelementptr i8, ptr %info, i64 16
  %address = load i64, ptr %p.address
  %p.ip = getelementptr i8, ptr %machine, i64 RIP
  %ip = load i64, ptr %p.ip
  %p.err = getelementptr i8, ptr %machine, i64 ERRCODE
  %err = load i64, ptr %p.err
  %err1 = lshr i64 %err, 1
  %err2 = and i64 %err1, 1
  %write = trunc i64 %err2 to i32
  %e.kind = getelementptr i8, ptr %context, i64 ERROR_KIND
  store i32 -1, ptr %e.kind
  %e.address = getelementptr i8, ptr %context, i64 ERROR_ADDRESS
  store i64 %address, ptr %e.address
  %e.write = getelementptr i8, ptr %context, i64 ERROR_WRITE
  store i32 %write, ptr %e.write
  %e.signal = getelementptr i8, ptr %context, i64 ERROR_SIGNAL
  store i32 %signal, ptr %e.signal
  %e.ip = getelementptr i8, ptr %context, i64 ERROR_IP
  store i64 %ip, ptr %e.ip
  br label %leave
leave:
  %p.back = getelementptr i8, ptr %machine, i64 RIP
  %sp = load i64, ptr %context
  %p.sp = getelementptr i8, ptr %machine, i64 RSP
  store i64 %sp, ptr %p.sp
  %out = ptrtoint ptr @gpuvm_escape to i64
  store i64 %out, ptr %p.back
  %p.fl = getelementptr i8, ptr %machine, i64 EFL
  store i64 514, ptr %p.fl
  ret void
other:
  %times = atomicrmw add ptr @gpuvm_chained, i32 1 seq_cst
  %wide = zext i32 %signal to i64
  %saved = getelementptr [152 x i8], ptr @gpuvm_previous, i64 %wide
  %handler = load i64, ptr %saved
  %default = icmp ult i64 %handler, 2
  %often = icmp sgt i32 %times, 8
  %reset = or i1 %default, %often
  br i1 %reset, label %die, label %chain
die:
  store i64 0, ptr %saved
  %r = call i32 @sigaction(i32 %signal, ptr %saved, ptr null)
  ret void
chain:
  %p.flags = getelementptr i8, ptr %saved, i64 136
  %flags = load i32, ptr %p.flags
  %three = and i32 %flags, 4
  %is3 = icmp ne i32 %three, 0
  %call = inttoptr i64 %handler to ptr
  br i1 %is3, label %full, label %plain
full:
  call void %call(i32 %signal, ptr %info, ptr %machine)
  ret void
plain:
  call void %call(i32 %signal)
  ret void
}

define i32 @gpuvm_install(i32 %signal) ATTRS {
  %now = alloca [152 x i8], align 16
  %new = alloca [152 x i8], align 16
  %a = call i32 @sigaction(i32 %signal, ptr null, ptr %now)
  %handler = load ptr, ptr %now
  %ours = icmp eq ptr %handler, @gpuvm_handler
  br i1 %ours, label %done, label %set
set:
  %wide = zext i32 %signal to i64
  %saved = getelementptr [152 x i8], ptr @gpuvm_previous, i64 %wide
  call void @llvm.memcpy.p0.p0.i64(ptr %saved, ptr %now, i64 152, i1 false)
  call void @llvm.memset.p0.i64(ptr %new, i8 0, i64 152, i1 false)
  store ptr @gpuvm_handler, ptr %new
  %p.flags = getelementptr i8, ptr %new, i64 136
  store i32 1207959556, ptr %p.flags
  store atomic i32 0, ptr @gpuvm_chained seq_cst, align 4
  %b = call i32 @sigaction(i32 %signal, ptr %new, ptr null)
  ret i32 1
done:
  ret i32 0
}

define void @gpuvm_job(ptr %job, i32 %index) ATTRS {
  %p.function = getelementptr i8, ptr %job, i64 JOB_FUNCTION
  %function = load ptr, ptr %p.function
  %p.contexts = getelementptr i8, ptr %job, i64 JOB_CONTEXTS
  %contexts = load ptr, ptr %p.contexts
  %wide = zext i32 %index to i64
  %p.context = getelementptr ptr, ptr %contexts, i64 %wide
  %context = load ptr, ptr %p.context
  call void @gpuvm_run(ptr %function, ptr %context)
  %p.kind = getelementptr i8, ptr %context, i64 ERROR_KIND
  %kind = load i32, ptr %p.kind
  %bad = icmp ne i32 %kind, 0
  br i1 %bad, label %failed, label %done
failed:
  %p.failed = getelementptr i8, ptr %job, i64 JOB_FAILED
  store atomic i32 1, ptr %p.failed seq_cst, align 4
  br label %done
done:
  ret void
}

define void @gpuvm_worker(ptr %pool, i32 %index) ATTRS {
entry:
  %p.sequence = getelementptr i8, ptr %pool, i64 POOL_SEQUENCE
  %p.pending = getelementptr i8, ptr %pool, i64 POOL_PENDING
  %p.quit = getelementptr i8, ptr %pool, i64 POOL_QUIT
  %p.job = getelementptr i8, ptr %pool, i64 POOL_JOB
  br label %idle
idle:
  %seen = phi i32 [ 0, %entry ], [ %now, %finish ]
  br label %spin
spin:
  %turn = phi i32 [ 0, %idle ], [ %turn1, %pause ], [ -ROUSED_SPINS, %sleep ]
  %now = load atomic i32, ptr %p.sequence acquire, align 4
  %fresh = icmp ne i32 %now, %seen
  br i1 %fresh, label %wake, label %check
check:
  %few = icmp slt i32 %turn, 400
  br i1 %few, label %pause, label %sleep
pause:
  call void @llvm.x86.sse2.pause()
  %turn1 = add i32 %turn, 1
  br label %spin
sleep:
  %w = call i64 (i64, ...) @syscall(i64 202, ptr %p.sequence, i32 128, i32 %seen, ptr null)
  br label %spin
wake:
  %quit = load atomic i32, ptr %p.quit acquire, align 4
  %leave = icmp ne i32 %quit, 0
  br i1 %leave, label %out, label %work
work:
  %state = load atomic i32, ptr %p.pending seq_cst, align 4
  br label %enter
enter:
  %old = phi i32 [ %state, %work ], [ %got, %try ]
  %open = icmp slt i32 %old, 0
  br i1 %open, label %try, label %finish
try:
  %more = add i32 %old, 1
  %pair = cmpxchg ptr %p.pending, i32 %old, i32 %more seq_cst seq_cst
  %got = extractvalue { i32, i1 } %pair, 0
  %won = extractvalue { i32, i1 } %pair, 1
  br i1 %won, label %inside, label %enter
inside:
  %job = load ptr, ptr %p.job
  call void @gpuvm_job(ptr %job, i32 %index)
  %before = atomicrmw sub ptr %p.pending, i32 1 seq_cst
  call void @gpuvm_nudge(ptr %pool)
  %last = icmp eq i32 %before, 1
  br i1 %last, label %notify, label %finish
notify:
  %n = call i64 (i64, ...) @syscall(i64 202, ptr %p.pending, i32 129, i32 1, ptr null)
  br label %finish
finish:
  br label %idle
out:
  ret void
}

define void @gpuvm_pool_run(ptr %pool, ptr %job) ATTRS {
entry:
  %p.sequence = getelementptr i8, ptr %pool, i64 POOL_SEQUENCE
  %p.pending = getelementptr i8, ptr %pool, i64 POOL_PENDING
  %p.job = getelementptr i8, ptr %pool, i64 POOL_JOB
  store ptr %job, ptr %p.job
  ; The sign bit says that workers may still come in; the rest counts those inside.
  store atomic i32 -2147483648, ptr %p.pending seq_cst, align 4
  %s = atomicrmw add ptr %p.sequence, i32 1 seq_cst
  %n = call i64 (i64, ...) @syscall(i64 202, ptr %p.sequence, i32 129, i32 2147483647, ptr null)
  call void @gpuvm_job(ptr %job, i32 0)
  %closed = atomicrmw and ptr %p.pending, i32 2147483647 seq_cst
  br label %wait
wait:
  %turn = phi i32 [ 0, %entry ], [ %turn1, %again ]
  %left = load atomic i32, ptr %p.pending acquire, align 4
  %done = icmp eq i32 %left, 0
  br i1 %done, label %out, label %check
check:
  %few = icmp ult i32 %turn, 400
  br i1 %few, label %pause, label %sleep
pause:
  call void @llvm.x86.sse2.pause()
  br label %again
sleep:
  %w = call i64 (i64, ...) @syscall(i64 202, ptr %p.pending, i32 128, i32 %left, ptr null)
  br label %again
again:
  %turn1 = add i32 %turn, 1
  br label %wait
out:
  ret void
}

define void @gpuvm_pool_quit(ptr %pool) ATTRS {
  %p.sequence = getelementptr i8, ptr %pool, i64 POOL_SEQUENCE
  %p.quit = getelementptr i8, ptr %pool, i64 POOL_QUIT
  store atomic i32 1, ptr %p.quit seq_cst, align 4
  %s = atomicrmw add ptr %p.sequence, i32 1 seq_cst
  %n = call i64 (i64, ...) @syscall(i64 202, ptr %p.sequence, i32 129, i32 2147483647, ptr null)
  ret void
}

define void @gpuvm_rouse(ptr %pool, i32 %wanted) ATTRS {
  %p.sequence = getelementptr i8, ptr %pool, i64 POOL_SEQUENCE
  %n = call i64 (i64, ...) @syscall(i64 202, ptr %p.sequence, i32 129, i32 %wanted, ptr null)
  ret void
}

define void @gpuvm_nudge(ptr %pool) ATTRS {
  %p.event = getelementptr i8, ptr %pool, i64 POOL_EVENT
  %e = atomicrmw add ptr %p.event, i32 1 seq_cst
  %n = call i64 (i64, ...) @syscall(i64 202, ptr %p.event, i32 129, i32 2147483647, ptr null)
  ret void
}

define void @gpuvm_wake(ptr %word) ATTRS {
  %n = call i64 (i64, ...) @syscall(i64 202, ptr %word, i32 129, i32 2147483647, ptr null)
  ret void
}

define i32 @gpuvm_park(ptr %context) ATTRS {
entry:
  %p.job = getelementptr i8, ptr %context, i64 JOB_OF
  %job = load ptr, ptr %p.job
  %p.pool = getelementptr i8, ptr %job, i64 JOB_POOL
  %pool = load ptr, ptr %p.pool
  %p.word = getelementptr i8, ptr %job, i64 JOB_STOP
  %word = load ptr, ptr %p.word
  %able = icmp ne ptr %pool, null
  br i1 %able, label %stand, label %out
stand:
  %p.parked = getelementptr i8, ptr %pool, i64 POOL_PARKED
  %m = atomicrmw add ptr %p.parked, i32 1 seq_cst
  call void @gpuvm_nudge(ptr %pool)
  br label %look
look:
  %now = load atomic i32, ptr %word acquire, align 4
  %still = icmp eq i32 %now, STOP_PARK
  br i1 %still, label %sleep, label %leave
sleep:
  %w = call i64 (i64, ...) @syscall(i64 202, ptr %word, i32 128, i32 STOP_PARK, ptr null)
  br label %look
leave:
  %l = atomicrmw sub ptr %p.parked, i32 1 seq_cst
  ret i32 %now
out:
  ret i32 0
}

; Run a job, or go on with one, on `wanted` threads of a pool; 1 if they were parked, 0 if it is over.
define i32 @gpuvm_crew(ptr %pool, ptr %job, i32 %wanted) ATTRS {
entry:
  %time = alloca [2 x i64], align 16
  %p.nsec = getelementptr i8, ptr %time, i64 8
  %p.sequence = getelementptr i8, ptr %pool, i64 POOL_SEQUENCE
  %p.pending = getelementptr i8, ptr %pool, i64 POOL_PENDING
  %p.job = getelementptr i8, ptr %pool, i64 POOL_JOB
  %p.event = getelementptr i8, ptr %pool, i64 POOL_EVENT
  %p.parked = getelementptr i8, ptr %pool, i64 POOL_PARKED
  %p.deadline = getelementptr i8, ptr %pool, i64 POOL_DEADLINE
  %p.word = getelementptr i8, ptr %job, i64 JOB_STOP
  %word = load ptr, ptr %p.word
  %p.end = getelementptr i8, ptr %job, i64 JOB_END
  %end = load i64, ptr %p.end
  %p.failed = getelementptr i8, ptr %job, i64 JOB_FAILED
  store ptr %job, ptr %p.job
  %open = atomicrmw or ptr %p.pending, i32 -2147483648 seq_cst
  %s = atomicrmw add ptr %p.sequence, i32 1 seq_cst
  %n = call i64 (i64, ...) @syscall(i64 202, ptr %p.sequence, i32 129, i32 %wanted, ptr null)
  %u = call i64 (i64, ...) @syscall(i64 202, ptr %word, i32 129, i32 2147483647, ptr null)
  br label %wait
wait:
  %turn = phi i32 [ 0, %entry ], [ %turn1, %again ]
  %event = load atomic i32, ptr %p.event seq_cst, align 4
  %told = load atomic i32, ptr %word seq_cst, align 4
  %next = load atomic i64, ptr %job seq_cst, align 8
  %failed = load atomic i32, ptr %p.failed seq_cst, align 4
  %none = icmp uge i64 %next, %end
  %stop = or i32 %told, %failed
  %stopped = icmp ne i32 %stop, 0
  %over = or i1 %none, %stopped
  %state = load atomic i32, ptr %p.pending seq_cst, align 4
  %in = and i32 %state, 2147483647
  %parked = load atomic i32, ptr %p.parked seq_cst, align 4
  %alone = icmp eq i32 %in, %parked
  %maybe = and i1 %over, %alone
  br i1 %maybe, label %close, label %clock
close:
  %old = atomicrmw and ptr %p.pending, i32 2147483647 seq_cst
  %in2 = and i32 %old, 2147483647
  %parked2 = load atomic i32, ptr %p.parked seq_cst, align 4
  %same = icmp eq i32 %in2, %parked2
  br i1 %same, label %judge, label %clock
judge:
  %nobody = icmp eq i32 %parked2, 0
  br i1 %nobody, label %done, label %standing
standing:
  %told2 = load atomic i32, ptr %word seq_cst, align 4
  %parks = icmp eq i32 %told2, STOP_PARK
  br i1 %parks, label %left, label %clock
clock:
  %deadline = load atomic i64, ptr %p.deadline seq_cst, align 8
  %limited = icmp ne i64 %deadline, 0
  br i1 %limited, label %compare, label %rest
compare:
  %c = call i32 @clock_gettime(i32 1, ptr %time)
  %sec = load i64, ptr %time
  %nsec = load i64, ptr %p.nsec
  %whole = mul i64 %sec, 1000000000
  %now = add i64 %whole, %nsec
  %remain = sub i64 %deadline, %now
  %late = icmp sle i64 %remain, 0
  br i1 %late, label %expire, label %relative
expire:
  %x = cmpxchg ptr %word, i32 0, i32 STOP_PARK seq_cst seq_cst
  %y = cmpxchg ptr %p.deadline, i64 %deadline, i64 0 seq_cst seq_cst
  br label %again
relative:
  %rs = udiv i64 %remain, 1000000000
  %rn = urem i64 %remain, 1000000000
  store i64 %rs, ptr %time
  store i64 %rn, ptr %p.nsec
  br label %rest
rest:
  %limit = phi ptr [ null, %clock ], [ %time, %relative ]
  %few = icmp ult i32 %turn, 200
  br i1 %few, label %spin, label %sleep
spin:
  call void @llvm.x86.sse2.pause()
  br label %again
sleep:
  %w = call i64 (i64, ...) @syscall(i64 202, ptr %p.event, i32 128, i32 %event, ptr %limit)
  br label %again
again:
  %turn1 = add i32 %turn, 1
  br label %wait
done:
  ret i32 0
left:
  ret i32 1
}

declare i32 @clock_gettime(i32, ptr)
declare void @llvm.x86.sse2.pause()
declare void @llvm.x86.avx.vzeroupper()
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
"""

EXPORTS = (
    "gpuvm_run", "gpuvm_raise", "gpuvm_install", "gpuvm_job", "gpuvm_worker", "gpuvm_pool_run", "gpuvm_pool_quit",
    "gpuvm_key", "gpuvm_crew", "gpuvm_nudge", "gpuvm_wake", "gpuvm_rouse", *SIGNATURES,
)  # fmt: skip
SIGILL, SIGSEGV, SIGBUS = 4, 11, 7


def runtime_ir(machine: Target) -> str:
    """The runtime's module as text."""
    names = {
        "PREVIOUS": at.PREVIOUS, "RIP": _RIP, "ERRCODE": _ERR, "RSP": _RSP, "EFL": _EFL,
        "ERROR_KIND": at.ERROR_KIND, "ERROR_ADDRESS": at.ERROR_ADDRESS, "ERROR_WRITE": at.ERROR_WRITE,
        "ERROR_SIGNAL": at.ERROR_SIGNAL, "ERROR_IP": at.ERROR_IP,
        "JOB_FUNCTION": at.JOB_FUNCTION, "JOB_CONTEXTS": at.JOB_CONTEXTS,
        "POOL_SEQUENCE": POOL_SEQUENCE, "POOL_PENDING": POOL_PENDING, "POOL_QUIT": POOL_QUIT,
        "POOL_WORKERS": POOL_WORKERS, "POOL_JOB": POOL_JOB, "POOL_EVENT": POOL_EVENT, "POOL_PARKED": POOL_PARKED,
        "POOL_DEADLINE": POOL_DEADLINE, "JOB_OF": at.JOB, "JOB_POOL": at.JOB_POOL, "JOB_STOP": at.JOB_STOP,
        "JOB_END": at.JOB_END, "JOB_FAILED": at.JOB_FAILED,
    }  # fmt: skip
    body = _IR + helpers_ir()
    for name, value in names.items():
        body = body.replace(f"i64 {name}\n", f"i64 {value}\n")
    body = body.replace("ATTRS", machine.attributes())
    clear = "call void @llvm.x86.avx.vzeroupper()" if machine.avx2 or machine.avx512 else ""
    body = body.replace("CLEAR_VECTORS", clear)
    body = body.replace("ROUSED_SPINS", str(ROUSED_SPINS))
    body = body.replace("STOP_PARK", str(at.STOP_PARK)).replace("PARK_MARK", str(at.PARK_MARK))
    assembly = "\n".join(f'module asm "{line.strip()}"' for line in _ASSEMBLY.strip().splitlines())
    return machine.header() + assembly + "\n" + body


class Runtime:
    """The loaded runtime: addresses for translated code, ctypes functions for Python."""

    def __init__(self) -> None:
        machine = target()
        names = ("pthread_getspecific", "pthread_setspecific", "sigaction", "syscall", "clock_gettime")
        # The module is the same in every process of this version: kept on disk like a kernel's.
        text = runtime_ir(machine)
        disk, disk_key = DiskCache(), DiskCache.key(machine.version, text)
        code = next((entry.parts[0] for entry in disk.find(disk_key)), None)
        if code is None:
            code = machine.compile(text)
            disk.put(disk_key, Entry({}, [code]))
        self.library: Library = machine.load(code, EXPORTS, {name: libc_address(name) for name in names})
        key = ctypes.c_uint32()
        if ctypes.CDLL(None).pthread_key_create(ctypes.byref(key), None) != 0:
            raise RuntimeError(
                "pthread_key_create must succeed; this process has too many thread-specific keys"
            )
        ctypes.c_uint32.from_address(self.library["gpuvm_key"]).value = key.value
        pointer = ctypes.c_void_p
        self.run = ctypes.CFUNCTYPE(None, pointer, pointer)(self.library["gpuvm_run"])
        self.job = ctypes.CFUNCTYPE(None, pointer, ctypes.c_int32)(self.library["gpuvm_job"])
        self.worker = ctypes.CFUNCTYPE(None, pointer, ctypes.c_int32)(self.library["gpuvm_worker"])
        self.pool_run = ctypes.CFUNCTYPE(None, pointer, pointer)(self.library["gpuvm_pool_run"])
        self.crew = ctypes.CFUNCTYPE(ctypes.c_int32, pointer, pointer, ctypes.c_int32)(
            self.library["gpuvm_crew"]
        )
        self.rouse = ctypes.CFUNCTYPE(None, pointer, ctypes.c_int32)(self.library["gpuvm_rouse"])
        self.nudge = ctypes.CFUNCTYPE(None, pointer)(self.library["gpuvm_nudge"])
        self.wake = ctypes.CFUNCTYPE(None, pointer)(self.library["gpuvm_wake"])
        self.pool_quit = ctypes.CFUNCTYPE(None, pointer)(self.library["gpuvm_pool_quit"])
        self._install = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int32)(self.library["gpuvm_install"])
        self.raise_address = self.library["gpuvm_raise"]
        self.imports = {name: self.library[name] for name in (*SIGNATURES, "gpuvm_raise")}
        """What translated code may call."""
        self._lock = threading.Lock()
        self.install()

    def install(self) -> None:
        """See that the handler is the process's (another library may have put its own in front)."""
        with self._lock:
            self._install(SIGILL)
            self._install(SIGSEGV)
            self._install(SIGBUS)


_runtime: Runtime | None = None
_runtime_lock = threading.Lock()


def runtime() -> Runtime:
    """The one Runtime of this process, its handler installed."""
    global _runtime
    with _runtime_lock:
        if _runtime is None:
            _runtime = Runtime()
        return _runtime
