"""CUDA programs in machines that share the GPU: right answers, and errors that stay where they were made."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gpuvm.gpu import Gf100
from gpuvm.guest.cuda import Cuda
from gpuvm.hypervisor import Aggregator
from gpuvm.vmm.inprocess import VirtualMachine

MIB = 1 << 20
PTX = b"""
.version 3.0
.target sm_20
.address_size 64
.visible .entry scale(.param .u64 data, .param .u32 factor, .param .u32 n)
{
  .reg .pred %p<2>; .reg .b32 %r<8>; .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [data]; ld.param.u32 %r6, [factor]; ld.param.u32 %r1, [n];
  mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;
  mad.lo.s32 %r5, %r2, %r3, %r4;
  setp.ge.u32 %p1, %r5, %r1;
  @%p1 bra DONE;
  mul.wide.u32 %rd2, %r5, 4; add.s64 %rd3, %rd1, %rd2;
  ld.global.u32 %r7, [%rd3]; mul.lo.u32 %r7, %r7, %r6; st.global.u32 [%rd3], %r7;
DONE:
  ret;
}
.visible .entry forever(.param .u64 data)
{
  .reg .b64 %rd<2>; .reg .b32 %r<2>; .reg .pred %p<2>;
  ld.param.u64 %rd1, [data];
AGAIN:
  ld.volatile.global.u32 %r1, [%rd1];
  setp.ne.u32 %p1, %r1, 12345;
  @%p1 bra AGAIN;
  ret;
}
"""


class Program:
    """A CUDA process in a VM."""

    def __init__(self, vm: VirtualMachine) -> None:
        self.cu = Cuda(vm)
        self.ok(self.cu.cuInit(0))
        self.context = self.ok(self.cu.cuCtxCreate(0, self.ok(self.cu.cuDeviceGet(0))))
        self.module = self.ok(self.cu.cuModuleLoadData(PTX))

    def ok(self, answer: Any) -> Any:
        assert answer[0].name == "CUDA_SUCCESS", answer[0].name
        return answer[1] if len(answer) == 2 else None

    def launch(self, kernel: bytes, count: int, *values: Any) -> Any:
        function = self.ok(self.cu.cuModuleGetFunction(self.module, kernel))
        kinds = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)[: len(values)]
        values = (int(values[0]), *values[1:])
        return self.cu.cuLaunchKernel(function, -(-count // 256), 1, 1, 256, 1, 1, 0, 0, (values, kinds), 0)

    def scale(self, data: np.ndarray[Any, Any], factor: int) -> np.ndarray[Any, Any]:
        """Multiply on the GPU."""
        pointer = self.ok(self.cu.cuMemAlloc(data.nbytes))
        self.ok(self.cu.cuMemcpyHtoD(pointer, data, data.nbytes))
        self.ok(self.launch(b"scale", data.size, pointer, factor, data.size))
        result = np.zeros_like(data)
        self.ok(self.cu.cuMemcpyDtoH(result, pointer, data.nbytes))
        self.ok(self.cu.cuMemFree(pointer))
        return result

    def is_right(self, factor: int, size: int = 5000) -> bool:
        data = np.arange(size, dtype=np.uint32)
        return bool(np.array_equal(self.scale(data, factor), data * factor))


class House:
    """A card of which each VM has 32 MiB."""

    def __init__(self, mode: str, watchdog_s: float | None = None) -> None:
        self.mode = mode
        self.gpu = Gf100(vram=192 * MIB, watchdog_s=watchdog_s)
        self.aggregator = Aggregator(self.gpu)
        self.machines: list[VirtualMachine] = []
        self.programs: list[Program] = []

    def program(self, name: str) -> Program:
        vm = VirtualMachine(name, 64 * MIB)
        self.machines.append(vm)
        vm.plug(self.aggregator.create(name, self.mode, vram=32 * MIB))
        self.programs.append(Program(vm))
        return self.programs[-1]

    def close(self) -> None:
        for program in self.programs:
            program.cu.close()
        self.aggregator.close()
        for vm in self.machines:
            vm.close()
        self.gpu.close()


@pytest.fixture(params=["fv-naive", "pv-naive", "pv-multicall", "pv-drm"])
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    house = House(request.param, watchdog_s=1.5)
    yield house
    house.close()


def test_programs_of_three_machines_compute_at_once(house: House) -> None:
    programs = [house.program(f"vm{n}") for n in range(3)]
    wrong: list[str] = []

    def work(program: Program, factor: int) -> None:
        try:
            program.ok(program.cu.cuCtxSetCurrent(program.context))
            wrong.extend(f"{factor + turn}" for turn in range(6) if not program.is_right(factor + turn))
        except AssertionError as error:
            wrong.append(str(error))

    threads = [
        threading.Thread(target=work, args=(program, 10 * n + 2)) for n, program in enumerate(programs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    for vgpu in house.aggregator.virtual_gpus():
        # A program sees its fence a moment before the dispatcher hears that the channel is idle.
        deadline = time.monotonic() + 10
        while vgpu.counters.doorbells != vgpu.counters.commands_completed and time.monotonic() < deadline:
            time.sleep(0.005)
        assert vgpu.counters.doorbells == vgpu.counters.commands_completed
        assert vgpu.counters.denied == vgpu.counters.denied_addresses == vgpu.counters.faults == 0


def test_a_kernel_that_faults_is_its_own_programs_error(house: House) -> None:
    good, bad = house.program("good"), house.program("bad")
    bad.launch(b"scale", 256, 0x3F_0000_0000, 3, 256)
    assert bad.cu.cuCtxSynchronize()[0].name == "CUDA_ERROR_ILLEGAL_ADDRESS"
    assert good.is_right(7)
    assert bad.cu.cuMemAlloc(4096)[0].name == "CUDA_ERROR_ILLEGAL_ADDRESS", "the error is sticky"
    bad.cu.cuCtxDestroy(bad.context)
    bad.context = bad.ok(bad.cu.cuCtxCreate(0, bad.ok(bad.cu.cuDeviceGet(0))))
    bad.module = bad.ok(bad.cu.cuModuleLoadData(PTX))
    assert bad.is_right(9)


def test_more_contexts_than_channels_are_refused_and_the_rest_works(house: House) -> None:
    program = house.program("greedy")
    for _ in range(2):
        more = []
        while True:
            answer = program.cu.cuCtxCreate(0, 0)
            if answer[0].name != "CUDA_SUCCESS":
                break
            more.append(answer[1])
            assert len(more) < 128
        assert answer[0].name == "CUDA_ERROR_OUT_OF_MEMORY"
        assert more
        for context in more:
            program.ok(program.cu.cuCtxDestroy(context))
        program.ok(program.cu.cuCtxSetCurrent(program.context))
        assert program.is_right(4)
    assert house.program("good").is_right(5)


def test_a_kernel_that_never_ends_is_its_own_programs_error(house: House) -> None:
    good, endless = house.program("good"), house.program("endless")
    pointer = endless.ok(endless.cu.cuMemAlloc(4096))
    endless.ok(endless.launch(b"forever", 1, pointer))
    assert good.is_right(7)
    assert endless.cu.cuCtxSynchronize()[0].name == "CUDA_ERROR_LAUNCH_TIMEOUT"
    assert good.is_right(8)


def test_a_machine_is_taken_away_from_under_its_program(house: House) -> None:
    good, gone = house.program("good"), house.program("gone")
    assert gone.is_right(3)
    pointer = gone.ok(gone.cu.cuMemAlloc(4096))
    gone.ok(gone.launch(b"forever", 1, pointer))
    house.aggregator.destroy(house.machines[1].devices[0])
    assert good.is_right(5)
    assert house.aggregator.vram.used == 32 * MIB
    house.programs.remove(gone)
