"""saxpy with an array of argument addresses and a cubin from NVRTC, on a stream."""

import numpy as np
from cuda import cuda, nvrtc

SOURCE = b"""
extern "C" __global__
void saxpy(float a, float *x, float *y, float *out, size_t n)
{
    size_t tid = blockIdx.x * blockDim.x + threadIdx.x;
    if (tid < n) out[tid] = a * x[tid] + y[tid];
}
"""


def ASSERT_DRV(err):
    if isinstance(err, cuda.CUresult):
        if err != cuda.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"Cuda Error: {err}")
    elif isinstance(err, nvrtc.nvrtcResult):
        if err != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise RuntimeError(f"Nvrtc Error: {err}")
    else:
        raise RuntimeError(f"Unknown error type: {err}")


(err,) = cuda.cuInit(0)
ASSERT_DRV(err)
err, device = cuda.cuDeviceGet(0)
ASSERT_DRV(err)
err, context = cuda.cuCtxCreate(0, device)
ASSERT_DRV(err)
err, major, minor = cuda.cuDeviceComputeCapability(device)
ASSERT_DRV(err)

err, prog = nvrtc.nvrtcCreateProgram(SOURCE, b"saxpy.cu", 0, [], [])
ASSERT_DRV(err)
opts = [b"--fmad=false", bytes(f"--gpu-architecture=sm_{major}{minor}", "ascii")]
(err,) = nvrtc.nvrtcCompileProgram(prog, 2, opts)
ASSERT_DRV(err)
err, size = nvrtc.nvrtcGetCUBINSize(prog)
ASSERT_DRV(err)
data = b" " * size
(err,) = nvrtc.nvrtcGetCUBIN(prog, data)
ASSERT_DRV(err)
err, module = cuda.cuModuleLoadData(np.char.array(data).ctypes.data)
ASSERT_DRV(err)
err, kernel = cuda.cuModuleGetFunction(module, b"saxpy")
ASSERT_DRV(err)

NUM_THREADS, NUM_BLOCKS = 512, 32
a = np.array([2.0], dtype=np.float32)
n = np.array(NUM_THREADS * NUM_BLOCKS, dtype=np.uint64)
buffer_size = int(n) * a.itemsize
err, dX = cuda.cuMemAlloc(buffer_size)
ASSERT_DRV(err)
err, dY = cuda.cuMemAlloc(buffer_size)
ASSERT_DRV(err)
err, dOut = cuda.cuMemAlloc(buffer_size)
ASSERT_DRV(err)
rng = np.random.default_rng(7)
hX = rng.random(int(n)).astype(dtype=np.float32)
hY = rng.random(int(n)).astype(dtype=np.float32)
hOut = np.zeros(int(n)).astype(dtype=np.float32)
err, stream = cuda.cuStreamCreate(0)
ASSERT_DRV(err)
(err,) = cuda.cuMemcpyHtoDAsync(dX, hX.ctypes.data, buffer_size, stream)
ASSERT_DRV(err)
(err,) = cuda.cuMemcpyHtoDAsync(dY, hY.ctypes.data, buffer_size, stream)
ASSERT_DRV(err)
(err,) = cuda.cuMemcpyHtoDAsync(dOut, hOut.ctypes.data, buffer_size, stream)
ASSERT_DRV(err)

dX_a = np.array([int(dX)], dtype=np.uint64)
dY_a = np.array([int(dY)], dtype=np.uint64)
dOut_a = np.array([int(dOut)], dtype=np.uint64)
args = [a, dX_a, dY_a, dOut_a, n]
args = np.array([arg.ctypes.data for arg in args], dtype=np.uint64)
(err,) = cuda.cuLaunchKernel(kernel, NUM_BLOCKS, 1, 1, NUM_THREADS, 1, 1, 0, stream, args.ctypes.data, 0)
ASSERT_DRV(err)
(err,) = cuda.cuMemcpyDtoHAsync(hOut.ctypes.data, dOut, buffer_size, stream)
ASSERT_DRV(err)
(err,) = cuda.cuStreamSynchronize(stream)
ASSERT_DRV(err)
if not np.array_equal(hOut, a * hX + hY):
    raise ValueError("Error outside tolerance for host-device vectors")
(err,) = cuda.cuStreamDestroy(stream)
ASSERT_DRV(err)
(err,) = cuda.cuMemFree(dX)
(err,) = cuda.cuMemFree(dY)
(err,) = cuda.cuMemFree(dOut)
(err,) = cuda.cuModuleUnload(module)
(err,) = cuda.cuCtxDestroy(context)
ASSERT_DRV(err)
print("saxpy is right")
