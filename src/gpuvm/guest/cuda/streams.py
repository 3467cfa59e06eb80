"""Streams, events and host functions."""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from typing import Any

import numpy as np

from gpuvm.guest.cuda.base import ApiBase
from gpuvm.guest.cuda.context import Context, Stream, release_words
from gpuvm.guest.cuda.core import SUCCESS, CudaError, entry, fail, handles
from gpuvm.guest.cuda.types import NAMES, address_of
from gpuvm.guest.driver.push import Host, semaphore

CUstream: Any = NAMES["CUstream"]
CUevent: Any = NAMES["CUevent"]
LEGACY, PER_THREAD = 1, 2
STREAM_FLAGS = 1
EVENT_FLAGS = 0x7
DISABLE_TIMING, INTERPROCESS = 2, 4

STREAM_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Event:
    """A point in a stream. The GPU writes its generation and the time to the event's slot.

    Attributes
    ----------
    sequence : int
        The submission that records it; 0 before the first record.
    """

    def __init__(self, context: Context, flags: int) -> None:
        self.context = context
        self.handle = next(handles)
        self.flags = flags
        self.slot = context.take_slot()
        self.sequence = 0

    @property
    def done(self) -> bool:
        return self.context.gpu.channel.finished(self.sequence)

    def time_ns(self) -> int:
        """The GPU's clock when it was recorded."""
        return int(ctypes.c_uint64.from_address(self.slot + 8).value)


class Callbacks:
    """Host functions of a context, run in order on one thread. The channel waits for each at a semaphore."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._queue: deque[tuple[int, Any, int]] = deque()
        self._changed = threading.Condition()
        self._running = 0
        self._closing = False
        self.slot = context.take_slot()
        self._word = ctypes.c_uint32.from_address(self.slot)
        self._word.value = 0
        self._issued = 0
        self._thread = threading.Thread(target=self._run, name="cuda-host-functions", daemon=True)
        self._thread.start()

    def enqueue(self, stream: Stream, function: Any) -> None:
        """Queue `function(CUresult)` behind the stream's work and in front of what follows."""
        context = self._context
        with context.gpu.channel.lock:
            before = context.submit(stream, [])
            with self._changed:
                self._issued += 1
                ticket = self._issued
                self._queue.append((before, function, ticket))
                self._running += 1
                self._changed.notify_all()
            context.submit(stream, semaphore(self.slot, ticket, Host.ACQUIRE_GEQUAL | Host.ACQUIRE_SWITCH))

    def drain(self) -> None:
        """Wait until every queued function has returned (not from inside one)."""
        if threading.current_thread() is self._thread:
            return
        with self._changed:
            while self._running:
                self._changed.wait()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                if not self._queue:
                    return
                before, function, ticket = self._queue.popleft()
            status = SUCCESS
            try:
                self._context.wait(before)
            except CudaError as error:
                status = error.code
            try:
                function(status)
            finally:
                self._word.value = ticket
                with self._changed:
                    self._running -= 1
                    self._changed.notify_all()


class StreamApi(ApiBase):
    """Stream and event management."""

    def _stream(self, hStream: Any, context: Context) -> Stream:
        """Return the stream that a handle names in a context."""
        number = int(hStream or 0)
        if number in (0, LEGACY):
            return context.default_stream
        if number == PER_THREAD:
            thread = threading.current_thread()
            stream = context.thread_streams.get(thread)
            if stream is None:
                stream = context.thread_streams[thread] = Stream(context)
            return stream
        stream = self._streams.get(number)
        if stream is None:
            raise fail("INVALID_HANDLE", f"{number:#x} must be a stream of this context")
        if stream.context is not context:
            raise fail("INVALID_HANDLE", "the stream must belong to the current context")
        return stream

    def _any_stream(self, hStream: Any) -> Stream:
        """Return a stream of whichever context."""
        number = int(hStream or 0)
        if number in self._streams:
            stream = self._streams[number]
            stream.context.check()
            return stream
        return self._stream(hStream, self._current())

    def _event(self, hEvent: Any) -> Event:
        event = self._events.get(int(hEvent or 0))
        if event is None:
            raise fail("INVALID_HANDLE")
        return event

    def _new_stream(self, flags: int, priority: int) -> Any:
        context = self._current()
        if flags & ~STREAM_FLAGS:
            raise fail("INVALID_VALUE")
        stream = Stream(context, flags, priority)
        context.streams[stream.handle] = stream
        self._streams[stream.handle] = stream
        return CUstream(stream.handle)

    @entry
    def cuStreamCreate(self, Flags: Any) -> Any:
        return self._new_stream(int(Flags), 0)

    @entry
    def cuStreamCreateWithPriority(self, flags: Any, priority: Any) -> Any:
        # One level of priority: any request is clamped to it, as CUDA does.
        int(priority)
        return self._new_stream(int(flags), 0)

    @entry
    def cuStreamDestroy(self, hStream: Any) -> None:
        stream = self._streams.get(int(hStream or 0))
        if stream is None:
            raise fail("INVALID_HANDLE")
        del self._streams[stream.handle]
        stream.context.streams.pop(stream.handle, None)

    @entry
    def cuStreamQuery(self, hStream: Any) -> None:
        stream = self._any_stream(hStream)
        stream.context.check()
        if stream.last and not stream.context.gpu.channel.finished(stream.last):
            raise fail("NOT_READY")

    @entry
    def cuStreamSynchronize(self, hStream: Any) -> None:
        stream = self._any_stream(hStream)
        stream.context.wait(stream.last)
        stream.context.check()

    @entry
    def cuStreamGetFlags(self, hStream: Any) -> Any:
        return self._any_stream(hStream).flags

    @entry
    def cuStreamGetPriority(self, hStream: Any) -> Any:
        return self._any_stream(hStream).priority

    @entry
    def cuStreamGetCtx(self, hStream: Any) -> Any:
        return NAMES["CUcontext"](self._any_stream(hStream).context.handle)

    @entry
    def cuStreamGetDevice(self, hStream: Any) -> Any:
        self._any_stream(hStream)
        return NAMES["CUdevice"](0)

    @entry
    def cuStreamGetId(self, hStream: Any) -> Any:
        return self._any_stream(hStream).handle

    @entry
    def cuStreamIsCapturing(self, hStream: Any) -> Any:
        self._any_stream(hStream)
        return NAMES["CUstreamCaptureStatus"].CU_STREAM_CAPTURE_STATUS_NONE

    @entry
    def cuStreamWaitEvent(self, hStream: Any, hEvent: Any, Flags: Any) -> None:
        stream = self._any_stream(hStream)
        event = self._event(hEvent)
        if event.sequence == 0 or event.context is stream.context:
            # The streams of a context share a channel: what was recorded earlier is done earlier.
            stream.context.check()
            return
        event.context.wait(event.sequence)

    @entry
    def cuStreamAddCallback(self, hStream: Any, callback: Any, userData: Any, flags: Any) -> None:
        if int(flags):
            raise fail("INVALID_VALUE")
        stream = self._any_stream(hStream)
        handle, data = int(hStream or 0), address_of(userData)
        if callable(callback):
            self._enqueue(stream, lambda status: callback(CUstream(handle), status, userData))
            return
        function = STREAM_CALLBACK(int(callback or 0))
        self._enqueue(stream, lambda status: function(handle, int(status), data))

    @entry
    def cuLaunchHostFunc(self, hStream: Any, fn: Any, userData: Any) -> None:
        stream = self._any_stream(hStream)
        if callable(fn):
            self._enqueue(stream, lambda status: fn(userData) if status == SUCCESS else None)
            return
        if not int(fn or 0):
            raise fail("INVALID_VALUE")
        function, data = HOST_FUNCTION(int(fn)), address_of(userData)
        self._enqueue(stream, lambda status: function(data) if status == SUCCESS else None)

    def _enqueue(self, stream: Stream, function: Any) -> None:
        context = stream.context
        with context.lock:
            if context.callbacks is None:
                context.callbacks = Callbacks(context)
        context.callbacks.enqueue(stream, function)

    @entry
    def cuEventCreate(self, Flags: Any) -> Any:
        context = self._current()
        flags = int(Flags)
        if flags & ~EVENT_FLAGS:
            raise fail("INVALID_VALUE")
        if flags & INTERPROCESS:
            raise fail("NOT_SUPPORTED")
        event = Event(context, flags)
        self._events[event.handle] = event
        return CUevent(event.handle)

    @entry
    def cuEventDestroy(self, hEvent: Any) -> None:
        event = self._event(hEvent)
        del self._events[event.handle]
        if event.context.alive:
            event.context.give_slot(event.slot, event.sequence)

    def _record(self, hEvent: Any, hStream: Any) -> None:
        event = self._event(hEvent)
        number = int(hStream or 0)
        stream = self._streams[number] if number in self._streams else self._stream(hStream, self._current())
        if stream.context is not event.context:
            raise fail("INVALID_HANDLE", "an event is recorded on a stream of its own context")
        with event.context.gpu.channel.lock:
            event.sequence = event.context.submit(stream, release_words(event.slot, 1))

    @entry
    def cuEventRecord(self, hEvent: Any, hStream: Any) -> None:
        self._record(hEvent, hStream)

    @entry
    def cuEventRecordWithFlags(self, hEvent: Any, hStream: Any, flags: Any) -> None:
        if int(flags):
            raise fail("INVALID_VALUE")
        self._record(hEvent, hStream)

    @entry
    def cuEventQuery(self, hEvent: Any) -> None:
        event = self._event(hEvent)
        event.context.check()
        if event.sequence and not event.done:
            raise fail("NOT_READY")

    @entry
    def cuEventSynchronize(self, hEvent: Any) -> None:
        event = self._event(hEvent)
        event.context.wait(event.sequence)
        event.context.check()

    def _elapsed(self, hStart: Any, hEnd: Any) -> float:
        start, end = self._event(hStart), self._event(hEnd)
        if start.context is not end.context:
            raise fail("INVALID_HANDLE")
        if (start.flags | end.flags) & DISABLE_TIMING or not start.sequence or not end.sequence:
            raise fail("INVALID_HANDLE", "both events must have been recorded with timing on")
        start.context.check()
        if not start.done or not end.done:
            raise fail("NOT_READY")
        return float(np.float32((end.time_ns() - start.time_ns()) / 1e6))

    @entry
    def cuEventElapsedTime(self, hStart: Any, hEnd: Any) -> Any:
        return self._elapsed(hStart, hEnd)

    @entry
    def cuEventElapsedTime_v2(self, hStart: Any, hEnd: Any) -> Any:
        return self._elapsed(hStart, hEnd)

    @entry
    def cuCtxRecordEvent(self, hCtx: Any, hEvent: Any) -> None:
        event = self._event(hEvent)
        if int(hCtx or 0) != event.context.handle:
            raise fail("INVALID_HANDLE")
        with event.context.gpu.channel.lock:
            event.sequence = event.context.submit(event.context.default_stream, release_words(event.slot, 1))

    @entry
    def cuCtxWaitEvent(self, hCtx: Any, hEvent: Any) -> None:
        event = self._event(hEvent)
        if int(hCtx or 0) != event.context.handle:
            event.context.wait(event.sequence)
