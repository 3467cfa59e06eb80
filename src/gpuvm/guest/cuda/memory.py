"""Memory: device allocations, page-locked host memory, what a pointer is."""

from __future__ import annotations

from typing import Any

from gpuvm.guest.cuda import attributes as device
from gpuvm.guest.cuda.base import ApiBase
from gpuvm.guest.cuda.context import Allocation, Context
from gpuvm.guest.cuda.core import entry, fail
from gpuvm.guest.cuda.types import NAMES, address_of
from gpuvm.guest.driver.host import HostBuffer, RegisteredBuffer, owns_its_pages
from gpuvm.guest.driver.space import DEVICE_BASE, DEVICE_SIZE

CUdeviceptr: Any = NAMES["CUdeviceptr"]
CUmemorytype: Any = NAMES["CUmemorytype"]
Attribute: Any = NAMES["CUpointer_attribute"]

ALLOCATE_FLAGS = 0x7
REGISTER_FLAGS = 0xF
HOST, DEVICE, ARRAY, UNIFIED = 1, 2, 3, 4


class Pinned:
    """Page-locked host memory that the program owns.

    Attributes
    ----------
    flags : int
        As given to cuMemHostAlloc or cuMemHostRegister.
    buffer : HostBuffer or None
        None for registered memory whose pages hold other data too: copies are staged.
    """

    def __init__(
        self, buffer: HostBuffer | None, address: int, size: int, flags: int, context: Context
    ) -> None:
        self.buffer = buffer
        self.address = address
        self.size = size
        self.flags = flags
        self.context = context

    @property
    def allocated(self) -> bool:
        """Whether cuMemHostAlloc made it (else it is registered)."""
        return self.buffer is not None and not isinstance(self.buffer, RegisteredBuffer)


class MemoryApi(ApiBase):
    """Memory management."""

    # What a pointer is -------------------------------------------------------------------------------------

    def _find_pinned(self, address: int) -> Pinned | None:
        for pinned in list(self._pinned.values()):
            if pinned.address <= address < pinned.address + max(pinned.size, 1):
                return pinned
        return None

    def _device_range(self, context: Context, pointer: Any, size: int) -> int:
        """Return a device pointer's address after checking that `size` bytes from it may be accessed."""
        address = int(pointer or 0)
        allocation = context.find(address)
        if allocation is not None:
            if address + size > allocation.address + allocation.size:
                raise fail("INVALID_VALUE", _beyond(address, size, allocation.address, allocation.size))
            return address
        for pinned in list(self._pinned.values()):
            if pinned.buffer is None:
                continue
            base = pinned.buffer.gpu_address
            if base <= address < base + pinned.size:
                if address + size > base + pinned.size:
                    raise fail("INVALID_VALUE", _beyond(address, size, base, pinned.size))
                return address
            if pinned.address <= address < pinned.address + pinned.size:
                return self._device_range(context, base + address - pinned.address, size)
        raise fail("INVALID_VALUE", f"{address:#x} must be a device pointer of this context; it is none")

    def _is_device(self, address: int) -> bool:
        return DEVICE_BASE <= address < DEVICE_BASE + DEVICE_SIZE

    def _host(self, pointer: Any, size: int) -> tuple[int, bool]:
        """Return (address, whether the GPU reaches it) of a host pointer argument."""
        address = address_of(pointer)
        if not address:
            raise fail("INVALID_VALUE", "a host pointer must not be null")
        pinned = self._find_pinned(address)
        if pinned is None or pinned.buffer is None:
            return address, False
        if address + size > pinned.address + pinned.size:
            raise fail("INVALID_VALUE", _beyond(address, size, pinned.address, pinned.size))
        return pinned.buffer.gpu_address + address - pinned.address, True

    # Allocation --------------------------------------------------------------------------------------------

    @entry
    def cuMemGetInfo(self) -> Any:
        self._current()
        return self.driver.vram.free_bytes, self.driver.vram.total

    @entry
    def cuMemAlloc(self, bytesize: Any) -> Any:
        context = self._current()
        if int(bytesize) <= 0:
            raise fail("INVALID_VALUE", f"an allocation must have at least 1 byte, got {int(bytesize)}")
        return CUdeviceptr(context.allocate(int(bytesize)).address)

    @entry
    def cuMemAllocPitch(self, WidthInBytes: Any, Height: Any, ElementSizeBytes: Any) -> Any:
        context = self._current()
        width, height = int(WidthInBytes), int(Height)
        if width <= 0 or height <= 0 or int(ElementSizeBytes) not in (4, 8, 16):
            raise fail("INVALID_VALUE")
        pitch = -(-width // device.PITCH_ALIGN) * device.PITCH_ALIGN
        return CUdeviceptr(context.allocate(pitch * height).address), pitch

    @entry
    def cuMemFree(self, dptr: Any) -> None:
        context = self._current()
        address = int(dptr or 0)
        if not address:
            return
        allocation = context.find(address)
        if allocation is None or allocation.address != address or allocation.module:
            raise fail("INVALID_VALUE", f"{address:#x} must be a pointer that cuMemAlloc returned")
        context.synchronize()
        context.free(allocation)

    @entry
    def cuMemGetAddressRange(self, dptr: Any) -> Any:
        context = self._current()
        address = int(dptr or 0)
        allocation = context.find(address)
        if allocation is not None:
            return CUdeviceptr(allocation.address), allocation.size
        pinned = self._find_pinned(address)
        if pinned is not None:
            return CUdeviceptr(pinned.address), pinned.size
        raise fail("NOT_FOUND")

    def _allocate_host(self, size: int, flags: int) -> int:
        context = self._current()
        if size <= 0 or flags & ~ALLOCATE_FLAGS:
            raise fail("INVALID_VALUE")
        buffer = self.driver.allocate_host(size)
        self._pinned[buffer.address] = Pinned(buffer, buffer.address, size, flags, context)
        return int(buffer.address)

    @entry
    def cuMemAllocHost(self, bytesize: Any) -> Any:
        return self._allocate_host(int(bytesize), 0)

    @entry
    def cuMemHostAlloc(self, bytesize: Any, Flags: Any) -> Any:
        return self._allocate_host(int(bytesize), int(Flags))

    @entry
    def cuMemFreeHost(self, p: Any) -> None:
        self._current()
        address = address_of(p)
        pinned = self._pinned.get(address)
        if pinned is None or not pinned.allocated:
            raise fail("INVALID_VALUE", f"{address:#x} must be an address that cuMemHostAlloc returned")
        self._release_pinned(pinned)

    @entry
    def cuMemHostRegister(self, p: Any, bytesize: Any, Flags: Any) -> None:
        context = self._current()
        address, size, flags = address_of(p), int(bytesize), int(Flags)
        if not address or size <= 0 or flags & ~REGISTER_FLAGS:
            raise fail("INVALID_VALUE")
        if flags & NAMES["CU_MEMHOSTREGISTER_IOMEMORY"]:
            raise fail("NOT_SUPPORTED")
        if any(
            address < other.address + other.size and other.address < address + size
            for other in list(self._pinned.values())
        ):
            raise fail("HOST_MEMORY_ALREADY_REGISTERED")
        buffer = self.driver.register_host(address, size) if owns_its_pages(address, size) else None
        self._pinned[address] = Pinned(buffer, address, size, flags, context)

    @entry
    def cuMemHostUnregister(self, p: Any) -> None:
        self._current()
        pinned = self._pinned.get(address_of(p))
        if pinned is None or pinned.allocated:
            raise fail("HOST_MEMORY_NOT_REGISTERED")
        self._release_pinned(pinned)

    def _release_pinned(self, pinned: Pinned) -> None:
        for context in list(self._contexts.values()):
            if context.error is None:
                context.synchronize()
        del self._pinned[pinned.address]
        if pinned.buffer is not None:
            self.driver.free_host(pinned.buffer)

    @entry
    def cuMemHostGetDevicePointer(self, p: Any, Flags: Any) -> Any:
        self._current()
        if int(Flags):
            raise fail("INVALID_VALUE")
        address = address_of(p)
        pinned = self._find_pinned(address)
        if pinned is None:
            raise fail("INVALID_VALUE", f"{address:#x} must lie in page-locked host memory")
        if pinned.buffer is None:
            raise fail(
                "NOT_SUPPORTED",
                "registered memory is mapped only if its pages hold nothing else: align it to 4096 bytes, "
                "or allocate it with cuMemHostAlloc",
            )
        return CUdeviceptr(pinned.buffer.gpu_address + address - pinned.address)

    @entry
    def cuMemHostGetFlags(self, p: Any) -> Any:
        self._current()
        pinned = self._find_pinned(address_of(p))
        if pinned is None:
            raise fail("INVALID_VALUE")
        return pinned.flags

    @entry
    def cuPointerGetAttribute(self, attribute: Any, ptr: Any) -> Any:
        return self._attribute(Attribute(int(attribute)), int(ptr or 0), self._current())

    @entry
    def cuPointerGetAttributes(self, numAttributes: Any, attributes: Any, ptr: Any) -> Any:
        context = self._current()
        wanted = list(attributes or [])
        if int(numAttributes) > len(wanted):
            raise RuntimeError(f"List is too small: {len(wanted)} < {int(numAttributes)}")
        out = []
        for attribute in wanted[: int(numAttributes)]:
            try:
                out.append(self._attribute(Attribute(int(attribute)), int(ptr or 0), context))
            except Exception:
                # CUDA gives a default for what a pointer has not, and succeeds.
                out.append(0)
        return out

    def _attribute(self, attribute: Any, address: int, context: Context) -> Any:
        found: Allocation | Pinned | None = context.find(address) or self._find_pinned(address)
        if found is None:
            raise fail("INVALID_VALUE", f"{address:#x} is no pointer of this context")
        is_device = isinstance(found, Allocation)
        A = Attribute
        if attribute == A.CU_POINTER_ATTRIBUTE_CONTEXT:
            owner = context if isinstance(found, Allocation) else found.context
            return NAMES["CUcontext"](owner.handle)
        if attribute == A.CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
            return CUmemorytype(DEVICE if is_device else HOST)
        if attribute == A.CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
            return CUdeviceptr(address)
        if attribute == A.CU_POINTER_ATTRIBUTE_HOST_POINTER:
            if is_device:
                raise fail("INVALID_VALUE")
            return address
        if attribute == A.CU_POINTER_ATTRIBUTE_IS_MANAGED:
            return False
        if attribute == A.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
            return 0
        if attribute == A.CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
            return found.address
        if attribute == A.CU_POINTER_ATTRIBUTE_RANGE_SIZE:
            return found.size
        if attribute == A.CU_POINTER_ATTRIBUTE_MAPPED:
            return True
        if attribute == A.CU_POINTER_ATTRIBUTE_BUFFER_ID:
            return found.address
        raise fail("NOT_SUPPORTED")


def _beyond(address: int, size: int, base: int, length: int) -> str:
    return f"{size} bytes at {address:#x} must lie in one allocation; the one at {base:#x} has {length} bytes"
