"""Linear copies between host and device, contexts, and addresses of either kind."""

from __future__ import annotations

import ctypes
from typing import Any

from gpuvm.guest.cuda.context import Context, Stream
from gpuvm.guest.cuda.core import entry, fail
from gpuvm.guest.cuda.memory import MemoryApi
from gpuvm.guest.driver.copy import m2mf_linear


class CopyApi(MemoryApi):
    """cuMemcpy and its relatives for ranges."""

    def _upload(
        self, context: Context, stream: Stream, destination: int, source: Any, size: int, sync: bool
    ) -> None:
        if size == 0:
            return
        self._device_range(context, destination, size)
        address, reachable = self._host(source, size)
        if reachable:
            sequence = context.copy(stream, destination, address, size)
            if sync:
                context.wait(sequence)
            return
        context.staging.upload(
            address,
            size,
            lambda at, staged, length: context.copy(stream, destination + at, staged, length),
        )

    def _download(
        self, context: Context, stream: Stream, destination: Any, source: int, size: int, sync: bool
    ) -> None:
        if size == 0:
            return
        self._device_range(context, source, size)
        address, reachable = self._host(destination, size)
        if reachable:
            sequence = context.copy(stream, address, source, size)
            if sync:
                context.wait(sequence)
            return
        context.staging.download(
            address,
            size,
            lambda at, staged, length: context.copy(stream, staged, source + at, length),
            context.wait,
        )

    def _move(self, context: Context, stream: Stream, destination: int, source: int, size: int) -> None:
        if size == 0:
            return
        self._device_range(context, destination, size)
        self._device_range(context, source, size)
        context.copy(stream, destination, source, size)

    @entry
    def cuMemcpyHtoD(self, dstDevice: Any, srcHost: Any, ByteCount: Any) -> None:
        context = self._current()
        self._upload(context, context.default_stream, int(dstDevice or 0), srcHost, int(ByteCount), True)

    @entry
    def cuMemcpyHtoDAsync(self, dstDevice: Any, srcHost: Any, ByteCount: Any, hStream: Any) -> None:
        context = self._current()
        stream = self._stream(hStream, context)
        self._upload(context, stream, int(dstDevice or 0), srcHost, int(ByteCount), False)

    @entry
    def cuMemcpyDtoH(self, dstHost: Any, srcDevice: Any, ByteCount: Any) -> None:
        context = self._current()
        self._download(context, context.default_stream, dstHost, int(srcDevice or 0), int(ByteCount), True)

    @entry
    def cuMemcpyDtoHAsync(self, dstHost: Any, srcDevice: Any, ByteCount: Any, hStream: Any) -> None:
        context = self._current()
        stream = self._stream(hStream, context)
        self._download(context, stream, dstHost, int(srcDevice or 0), int(ByteCount), False)

    @entry
    def cuMemcpyDtoD(self, dstDevice: Any, srcDevice: Any, ByteCount: Any) -> None:
        context = self._current()
        stream = context.default_stream
        self._move(context, stream, int(dstDevice or 0), int(srcDevice or 0), int(ByteCount))

    @entry
    def cuMemcpyDtoDAsync(self, dstDevice: Any, srcDevice: Any, ByteCount: Any, hStream: Any) -> None:
        context = self._current()
        stream = self._stream(hStream, context)
        self._move(context, stream, int(dstDevice or 0), int(srcDevice or 0), int(ByteCount))

    def _unified(self, context: Context, stream: Stream, dst: int, src: int, size: int, sync: bool) -> None:
        """Copy between addresses of either kind; unified addressing tells which is which."""
        if self._is_device(dst):
            if self._is_device(src):
                self._move(context, stream, dst, src, size)
            else:
                self._upload(context, stream, dst, src, size, sync)
        elif self._is_device(src):
            self._download(context, stream, dst, src, size, sync)
        else:
            context.wait(stream.last)
            ctypes.memmove(dst, src, size)

    @entry
    def cuMemcpy(self, dst: Any, src: Any, ByteCount: Any) -> None:
        context = self._current()
        self._unified(context, context.default_stream, int(dst or 0), int(src or 0), int(ByteCount), True)

    @entry
    def cuMemcpyAsync(self, dst: Any, src: Any, ByteCount: Any, hStream: Any) -> None:
        context = self._current()
        stream = self._stream(hStream, context)
        self._unified(context, stream, int(dst or 0), int(src or 0), int(ByteCount), False)

    @entry
    def cuMemcpyPeer(
        self, dstDevice: Any, dstContext: Any, srcDevice: Any, srcContext: Any, ByteCount: Any
    ) -> None:
        self._peer(dstDevice, dstContext, srcDevice, srcContext, int(ByteCount))

    @entry
    def cuMemcpyPeerAsync(
        self, dstDevice: Any, dstContext: Any, srcDevice: Any, srcContext: Any, ByteCount: Any, hStream: Any
    ) -> None:
        self._stream(hStream, self._current())
        self._peer(dstDevice, dstContext, srcDevice, srcContext, int(ByteCount))

    def _peer(self, dst: Any, dst_context: Any, src: Any, src_context: Any, size: int) -> None:
        to, source = self._contexts.get(int(dst_context or 0)), self._contexts.get(int(src_context or 0))
        if to is None or source is None:
            raise fail("INVALID_CONTEXT")
        if to is source:
            self._move(to, to.default_stream, int(dst or 0), int(src or 0), size)
            return
        # Two address spaces of one card: through page-locked memory, which both map.
        buffer = self.driver.allocate_host(min(max(size, 1), 4 << 20))
        try:
            done = 0
            while done < size:
                length = min(buffer.size, size - done)
                self._device_range(source, int(src) + done, length)
                self._device_range(to, int(dst) + done, length)
                words = m2mf_linear(buffer.address, int(src) + done, length)
                source.wait(source.submit(source.default_stream, words))
                words = m2mf_linear(int(dst) + done, buffer.address, length)
                to.wait(to.submit(to.default_stream, words))
                done += length
        finally:
            self.driver.free_host(buffer)
