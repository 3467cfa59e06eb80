"""Devices, versions, errors by name: what works without a context."""

from __future__ import annotations

import uuid
from typing import Any

from gpuvm.guest.cuda import attributes
from gpuvm.guest.cuda.base import ApiBase
from gpuvm.guest.cuda.core import PARAMETERS, CUresult, entry, entry_without_init, fail
from gpuvm.guest.cuda.types import NAMES
from gpuvm.guest.driver.device import Driver

CUdevice: Any = NAMES["CUdevice"]
Attribute: Any = NAMES["CUdevice_attribute"]

ERROR_TEXTS = {
    "SUCCESS": "no error",
    "INVALID_VALUE": "invalid argument",
    "OUT_OF_MEMORY": "out of memory",
    "NOT_INITIALIZED": "initialization error",
    "DEINITIALIZED": "driver shutting down",
    "NO_DEVICE": "no CUDA-capable device is detected",
    "INVALID_DEVICE": "invalid device ordinal",
    "INVALID_IMAGE": "device kernel image is invalid",
    "INVALID_CONTEXT": "invalid device context",
    "NO_BINARY_FOR_GPU": "no kernel image is available for execution on the device",
    "INVALID_PTX": "a PTX JIT compilation failed",
    "UNSUPPORTED_PTX_VERSION": "the provided PTX was compiled with an unsupported toolchain.",
    "FILE_NOT_FOUND": "file not found",
    "INVALID_HANDLE": "invalid resource handle",
    "NOT_FOUND": "named symbol not found",
    "NOT_READY": "device not ready",
    "ILLEGAL_ADDRESS": "an illegal memory access was encountered",
    "LAUNCH_OUT_OF_RESOURCES": "too many resources requested for launch",
    "LAUNCH_TIMEOUT": "the launch timed out and was terminated",
    "CONTEXT_IS_DESTROYED": "context is destroyed",
    "HOST_MEMORY_ALREADY_REGISTERED": "part or all of the requested memory range is already mapped",
    "HOST_MEMORY_NOT_REGISTERED": "pointer does not correspond to a registered memory region",
    "HARDWARE_STACK_ERROR": "hardware stack error",
    "ILLEGAL_INSTRUCTION": "an illegal instruction was encountered",
    "MISALIGNED_ADDRESS": "misaligned address",
    "INVALID_ADDRESS_SPACE": "operation not supported on global/shared address space",
    "INVALID_PC": "invalid program counter",
    "LAUNCH_FAILED": "unspecified launch failure",
    "NOT_PERMITTED": "operation not permitted",
    "NOT_SUPPORTED": "operation not supported",
    "UNSUPPORTED_LIMIT": "limit is not supported on this architecture",
    "PEER_ACCESS_UNSUPPORTED": "peer access is not supported between these two devices",
    "UNKNOWN": "unknown error",
}
"""What cuGetErrorString says; other errors are described by their own name."""


class DeviceApi(ApiBase):
    """Initialization, device management, error names."""

    @property
    def driver(self) -> Driver:
        """The kernel driver, loaded by cuInit.

        Raises
        ------
        CudaError
            NOT_INITIALIZED before it.
        """
        if self._driver is None:
            raise fail("NOT_INITIALIZED")
        return self._driver

    @entry_without_init
    def cuInit(self, Flags: Any) -> None:
        if int(Flags):
            raise fail("INVALID_VALUE")
        if self._driver is None:
            self._driver = Driver(self.machine)
        self._initialized = True

    @entry_without_init
    def cuDriverGetVersion(self) -> Any:
        return attributes.DRIVER_VERSION

    @entry_without_init
    def cuGetErrorName(self, error: Any) -> Any:
        return self._error(error).name.encode()

    @entry_without_init
    def cuGetErrorString(self, error: Any) -> Any:
        name = self._error(error).name.removeprefix("CUDA_").removeprefix("ERROR_")
        return ERROR_TEXTS.get(name, name.lower().replace("_", " ")).encode()

    def _error(self, error: Any) -> Any:
        try:
            return CUresult(int(error))
        except ValueError:
            raise fail("INVALID_VALUE") from None

    @entry_without_init
    def cuGetProcAddress(self, symbol: Any, cudaVersion: Any, flags: Any) -> Any:
        name = symbol.decode() if isinstance(symbol, bytes) else str(symbol)
        status = NAMES["CUdriverProcAddressQueryResult"]
        if name not in PARAMETERS:
            return 0, status.CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND
        # These functions are Python: there is no address that C code could call.
        raise fail("NOT_SUPPORTED")

    @entry
    def cuDeviceGetCount(self) -> Any:
        return 1

    @entry
    def cuDeviceGet(self, ordinal: Any) -> Any:
        self._device(ordinal)
        return CUdevice(0)

    @entry
    def cuDeviceGetName(self, length: Any, dev: Any) -> Any:
        self._device(dev)
        size = int(length)
        if size <= 0:
            raise fail("INVALID_VALUE")
        name = attributes.NAME.encode()[: size - 1]
        return name + bytes(size - len(name))

    @entry
    def cuDeviceGetUuid(self, dev: Any) -> Any:
        return self._uuid(dev)

    @entry
    def cuDeviceGetUuid_v2(self, dev: Any) -> Any:
        return self._uuid(dev)

    def _uuid(self, dev: Any) -> Any:
        self._device(dev)
        out = NAMES["CUuuid"]()
        out.bytes = uuid.uuid5(uuid.NAMESPACE_OID, f"gpuvm/{self.machine.name}").bytes
        return out

    @entry
    def cuDeviceTotalMem(self, dev: Any) -> Any:
        self._device(dev)
        return self.driver.vram.total

    @entry
    def cuDeviceComputeCapability(self, dev: Any) -> Any:
        self._device(dev)
        return 2, 0

    @entry
    def cuDeviceGetAttribute(self, attrib: Any, dev: Any) -> Any:
        self._device(dev)
        try:
            name = Attribute(int(attrib)).name.removeprefix("CU_DEVICE_ATTRIBUTE_")
        except ValueError:
            raise fail("INVALID_VALUE") from None
        if name == "MAX":
            raise fail("INVALID_VALUE")
        if name == "MULTIPROCESSOR_COUNT":
            return self.driver.graph.multiprocessors
        return attributes.FIXED.get(name, 0)

    @entry
    def cuDeviceGetProperties(self, dev: Any) -> Any:
        self._device(dev)
        out = NAMES["CUdevprop"]()
        out.maxThreadsPerBlock = attributes.MAX_THREADS_PER_BLOCK
        out.maxThreadsDim = list(attributes.MAX_BLOCK)
        out.maxGridSize = list(attributes.MAX_GRID)
        out.sharedMemPerBlock = attributes.SHARED_PER_BLOCK
        out.totalConstantMemory = attributes.CONSTANT_MEMORY
        out.SIMDWidth = attributes.WARP
        out.memPitch = attributes.MAX_PITCH
        out.regsPerBlock = attributes.REGISTERS
        out.clockRate = attributes.SHADER_CLOCK_KHZ
        out.textureAlign = attributes.FIXED["TEXTURE_ALIGNMENT"]
        return out

    @entry
    def cuDeviceGetPCIBusId(self, length: Any, dev: Any) -> Any:
        self._device(dev)
        size = int(length)
        text = self._bus_id()
        if size < len(text) + 1:
            raise fail("INVALID_VALUE")
        return text + bytes(size - len(text))

    @entry
    def cuDeviceGetByPCIBusId(self, pciBusId: Any) -> Any:
        given = pciBusId if isinstance(pciBusId, bytes) else str(pciBusId).encode()
        if given.strip(b"\0 ").lower() not in (self._bus_id().lower(), self._bus_id()[5:].lower()):
            raise fail("INVALID_DEVICE")
        return CUdevice(0)

    def _bus_id(self) -> bytes:
        return b"%04X:%02X:%02X.0" % (
            attributes.FIXED["PCI_DOMAIN_ID"],
            attributes.FIXED["PCI_BUS_ID"],
            attributes.FIXED["PCI_DEVICE_ID"],
        )

    @entry
    def cuDeviceCanAccessPeer(self, dev: Any, peerDev: Any) -> Any:
        self._device(dev)
        self._device(peerDev)
        return 0

    @entry
    def cuDeviceGetP2PAttribute(self, attrib: Any, srcDevice: Any, dstDevice: Any) -> Any:
        self._device(srcDevice)
        self._device(dstDevice)
        # One device: it is no peer of itself.
        raise fail("INVALID_DEVICE")

    @entry
    def cuDeviceGetExecAffinitySupport(self, typename: Any, dev: Any) -> Any:
        self._device(dev)
        return 0

    @entry
    def cuCtxEnablePeerAccess(self, peerContext: Any, Flags: Any) -> None:
        raise fail("PEER_ACCESS_UNSUPPORTED")

    @entry
    def cuProfilerStart(self) -> None:
        return None

    @entry
    def cuProfilerStop(self) -> None:
        return None
