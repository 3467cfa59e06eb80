"""The Pythonic layer: what README shows."""

from __future__ import annotations

import numpy as np
import pytest
from guest_support import Lab, ok

import kernels
from gpuvm.guest.pythonic import Gpu, GpuError

SAXPY = (
    kernels.HEADER
    + f"""
.visible .entry saxpy(.param .f32 a, .param .u64 x, .param .u64 y, .param .u32 n)
{{
    {kernels.REGISTERS}
    {kernels.INDEX}
    ld.param.u32 %r4, [n];
    setp.ge.u32 %p0, %r3, %r4;
    @%p0 bra done;
    ld.param.f32 %f0, [a]; ld.param.u64 %d2, [x]; ld.param.u64 %d3, [y];
    add.u64 %d2, %d2, %d1; add.u64 %d3, %d3, %d1;
    ld.global.f32 %f1, [%d2]; ld.global.f32 %f2, [%d3];
    fma.rn.f32 %f3, %f0, %f1, %f2;
    st.global.f32 [%d3], %f3;
done:
    ret;
}}
"""
)


def test_arrays_go_in_and_out(lab: Lab) -> None:
    n = 1000
    x, y = np.arange(n, dtype=np.float32), np.ones(n, np.float32)
    with Gpu(lab.cuda) as gpu:
        module = gpu.module(SAXPY)
        on_gpu = gpu.array(y)
        module.saxpy[4, 256](2.0, x, on_gpu, n)
        assert np.array_equal(on_gpu.get(), 2 * x + 1)
        module["saxpy"][4, 256](np.float32(-1), on_gpu, y, np.uint32(n))
        assert np.array_equal(y, -2 * x)
        assert gpu.zeros((3, 4), np.int16).get().tolist() == [[0] * 4] * 3
        with gpu.empty(5) as scratch:
            scratch.set(np.arange(5))
            assert scratch.get(np.empty(5, np.float32)).tolist() == [0, 1, 2, 3, 4]
        gpu.synchronize()
    driver = lab.cuda.driver
    assert driver.vram.used_bytes == driver.idle_vram
    assert int(ok(lab.cuda.cuCtxGetCurrent())) == 0


def test_mistakes_are_explained(lab: Lab) -> None:
    with Gpu(lab.cuda) as gpu:
        module = gpu.module(SAXPY)
        with pytest.raises(GpuError, match=r"NOT_FOUND: .*must have a kernel 'missing'"):
            module.missing  # noqa: B018
        with pytest.raises(TypeError, match="takes 4 arguments, got 1"):
            module.saxpy[1, 1](2.0)
        with pytest.raises(TypeError, match="needs a grid and a block"):
            module.saxpy(2.0)
        with pytest.raises(TypeError, match="must be an array, a pointer or a number, got str"):
            module.saxpy[1, 1]("2", 0, 0, 0)
        with pytest.raises(ValueError, match=r"shape \(3,\), got \(4,\)"):
            gpu.empty(3).set(np.zeros(4))
        with pytest.raises(GpuError, match=r"INVALID_PTX: .*line 1"):
            gpu.module("nonsense")
        module.saxpy[1, 32](1.0, 0, 0, 32)
        with pytest.raises(GpuError, match=r"ILLEGAL_ADDRESS: .*read fault at 0x00000000") as error:
            gpu.synchronize()
        assert error.value.code == lab.cuda.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    with Gpu(lab.cuda) as gpu:
        assert gpu.zeros(4).get().tolist() == [0] * 4
