"""A guest in a process of its own: a machine whose GPU comes over a socket.

python guest_process.py SOCKET PROGRAM.py|work|spin|stubborn [ARGUMENTS]

`work` computes without end until its standard input says so and then says whether all was right, `spin` starts a
kernel that never ends and says so, `stubborn` does a round, waits for a line, connects anew and does another.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import numpy as np

from gpuvm.guest.cuda import Cuda
from gpuvm.guest.injection import run_program
from gpuvm.vmm.inprocess import VirtualMachine
from gpuvm.vmm.vfio_user.remote import RemoteDevice

PTX = """
.version 3.2
.target sm_20
.address_size 64
.visible .entry triple(.param .u64 data, .param .u32 count)
{
    .reg .pred %p; .reg .u32 %r<6>; .reg .u64 %d<4>;
    mov.u32 %r0, %ctaid.x; mov.u32 %r1, %ntid.x; mov.u32 %r2, %tid.x;
    mad.lo.u32 %r3, %r0, %r1, %r2;
    ld.param.u32 %r4, [count];
    setp.ge.u32 %p, %r3, %r4;
    @%p bra DONE;
    ld.param.u64 %d0, [data];
    mul.wide.u32 %d1, %r3, 4;
    add.u64 %d2, %d0, %d1;
    ld.global.u32 %r5, [%d2];
    mul.lo.u32 %r5, %r5, 3;
    st.global.u32 [%d2], %r5;
DONE:
    ret;
}
.visible .entry endless(.param .u64 data)
{
    .reg .pred %p; .reg .u32 %r<2>; .reg .u64 %d;
    ld.param.u64 %d, [data];
AGAIN:
    ld.volatile.global.u32 %r0, [%d];
    setp.ne.u32 %p, %r0, 77;
    @%p bra AGAIN;
    ret;
}
"""
COUNT = 5000


def check(result: tuple[object, ...]) -> object:
    assert int(result[0]) == 0, result[0]  # type: ignore[call-overload]
    return result[1] if len(result) > 1 else None


class Work:
    """A context, a module and a buffer."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        check(cuda.cuInit(0))
        check(cuda.cuCtxCreate(0, 0))
        self.module = check(cuda.cuModuleLoadData(PTX.encode()))
        self.memory = check(cuda.cuMemAlloc(4 * COUNT))

    def launch(self, name: str, *arguments: tuple[object, ...]) -> None:
        function = check(self.cuda.cuModuleGetFunction(self.module, name.encode()))
        values, types = zip(*arguments, strict=True)
        grid = -(-COUNT // 128)
        check(self.cuda.cuLaunchKernel(function, grid, 1, 1, 128, 1, 1, 0, 0, (values, types), 0))

    def round(self, seed: int) -> bool:
        """Triple random numbers on the GPU; whether they came back right."""
        import ctypes

        sent = np.random.default_rng(seed).integers(0, 1 << 32, COUNT, np.uint32)
        back = np.zeros_like(sent)
        check(self.cuda.cuMemcpyHtoD(self.memory, sent.ctypes.data, sent.nbytes))
        self.launch("triple", (int(self.memory), ctypes.c_uint64), (COUNT, ctypes.c_uint32))  # type: ignore[call-overload]
        check(self.cuda.cuMemcpyDtoH(back.ctypes.data, self.memory, back.nbytes))
        return bool((back == sent * np.uint32(3)).all())

    def spin(self) -> None:
        import ctypes

        self.launch("endless", (int(self.memory), ctypes.c_uint64))  # type: ignore[call-overload]


def say(text: str) -> None:
    print(text, flush=True)


def work(machine: VirtualMachine, remote: RemoteDevice) -> int:
    cuda = Cuda(machine)
    job = Work(cuda)
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    rounds, wrong = 0, 0
    while not stop.is_set() or rounds < 2:
        wrong += not job.round(rounds)
        rounds += 1
        if rounds == 1:
            say("works")
    cuda.close()
    say(f"{wrong} wrong")
    return wrong


def spin(machine: VirtualMachine, remote: RemoteDevice) -> int:
    job = Work(Cuda(machine))
    assert job.round(1)
    job.spin()
    say("spins")
    while remote.read(0, 0, 4) != 0xFFFFFFFF:
        time.sleep(0.05)
    say("lost")
    sys.stdin.readline()
    return 0


def stubborn(machine: VirtualMachine, remote: RemoteDevice) -> int:
    cuda = Cuda(machine)
    first = Work(cuda).round(1)
    say(f"before {first}")
    sys.stdin.readline()
    say(f"lost {remote.read(0, 0, 4) == 0xFFFFFFFF and remote.lost}")
    sys.stdin.readline()
    remote.reconnect()
    remote.reset()
    cuda.close()  # the driver's old state goes
    machine.unplug(remote)
    machine.plug(remote)
    cuda = Cuda(machine)
    say(f"after {Work(cuda).round(2)}")
    cuda.close()
    return 0


def main() -> int:
    socket, program, *arguments = sys.argv[1:]
    remote = RemoteDevice(socket, timeout_s=30)
    with VirtualMachine("guest", 32 << 20) as machine:
        machine.plug(remote)
        stories = {"work": work, "spin": spin, "stubborn": stubborn}
        if program in stories:
            status = stories[program](machine, remote)
        else:
            cuda = Cuda(machine)
            status = run_program(cuda, Path(program), arguments)
            cuda.close()
    remote.close()
    return status


if __name__ == "__main__":
    sys.exit(main())
