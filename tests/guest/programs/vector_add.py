"""A vector addition as in the first example of cuda-python: CUDA C through NVRTC, then the driver API."""

import ctypes
import sys

import numpy as np
from cuda.bindings import driver, nvrtc

SOURCE = """
extern "C" __global__ void vector_add(const float *a, const float *b, float *c, int n)
{
    int i = blockDim.x * blockIdx.x + threadIdx.x;
    if (i < n) c[i] = a[i] + b[i];
}
"""


def check(result):
    error, *values = result
    if error.value:
        name = (
            driver.cuGetErrorName(error)[1]
            if isinstance(error, driver.CUresult)
            else nvrtc.nvrtcGetErrorString(error)[1]
        )
        raise RuntimeError(f"CUDA error {error.value}: {name}")
    return values[0] if len(values) == 1 else values or None


def compile_source(source, device):
    major = check(
        driver.cuDeviceGetAttribute(
            driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device
        )
    )
    minor = check(
        driver.cuDeviceGetAttribute(
            driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device
        )
    )
    program = check(nvrtc.nvrtcCreateProgram(source.encode(), b"vector_add.cu", 0, [], []))
    options = [b"--fmad=false", f"--gpu-architecture=compute_{major}{minor}".encode()]
    (error,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = b" " * check(nvrtc.nvrtcGetProgramLogSize(program))
        check(nvrtc.nvrtcGetProgramLog(program, log))
        sys.exit(log.decode())
    ptx = b" " * check(nvrtc.nvrtcGetPTXSize(program))
    check(nvrtc.nvrtcGetPTX(program, ptx))
    check(nvrtc.nvrtcDestroyProgram(program))
    return ptx


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    check(driver.cuInit(0))
    device = check(driver.cuDeviceGet(0))
    context = check(driver.cuCtxCreate(0, device))
    module = check(driver.cuModuleLoadData(np.char.array(compile_source(SOURCE, device)).ctypes.data))
    kernel = check(driver.cuModuleGetFunction(module, b"vector_add"))

    rng = np.random.default_rng(1)
    h_a, h_b = (rng.random(n, dtype=np.float32) for _ in range(2))
    h_c = np.zeros(n, np.float32)
    d_a, d_b, d_c = (check(driver.cuMemAlloc(h_c.nbytes)) for _ in range(3))
    check(driver.cuMemcpyHtoD(d_a, h_a, h_a.nbytes))
    check(driver.cuMemcpyHtoD(d_b, h_b, h_b.nbytes))
    values = (d_a, d_b, d_c, n)
    types = (None, None, None, ctypes.c_int)
    check(driver.cuLaunchKernel(kernel, (n + 255) // 256, 1, 1, 256, 1, 1, 0, 0, (values, types), 0))
    check(driver.cuMemcpyDtoH(h_c, d_c, h_c.nbytes))
    for pointer in (d_a, d_b, d_c):
        check(driver.cuMemFree(pointer))
    check(driver.cuModuleUnload(module))
    check(driver.cuCtxDestroy(context))
    if not np.array_equal(h_c, h_a + h_b):
        print("wrong sums")
        sys.exit(-1)
    print(f"{n} sums are right")


if __name__ == "__main__":
    main()
