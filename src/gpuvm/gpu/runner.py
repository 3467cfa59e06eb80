"""The thread that runs channels: round robin over the playlist, one pushbuffer segment at a time.

Nothing else executes channel work, so a CPU's access never waits for it. A channel that waits for a semaphore
is left alone and looked at again when memory may have changed, at the latest after `RETRY_MAX_S`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from gpuvm.gpu.channel import Channel, Stop
from gpuvm.gpu.pusher import Pusher, Turn

if TYPE_CHECKING:
    from gpuvm.gpu.device import Gf100

RETRY_MIN_S, RETRY_MAX_S = 50e-6, 2e-3


class Runner:
    """Schedules channels on one thread, which starts with the first doorbell."""

    def __init__(self, gpu: Gf100) -> None:
        self._gpu = gpu
        self._pusher = Pusher(gpu)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._last = -1
        self.current: Channel | None = None
        self.idle_listeners: list[Callable[[int], None]] = []
        self.turn_listeners: list[Callable[[int, int, int], None]] = []
        self.switch_listeners: list[Callable[[int, bool], None]] = []

    @property
    def closing(self) -> bool:
        return self._closing

    # From any thread

    def ring(self, number: int) -> None:
        """Say that channel `number` may have something to do."""
        channel = self._gpu.pfifo.channels[number]
        with self._changed:
            if channel is not None:
                channel.ready = True
            self.memory_changed()
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="gf100-pfifo", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wake(self) -> None:
        """Look at the playlist again."""
        with self._changed:
            self._changed.notify_all()

    def memory_changed(self) -> None:
        """Say that a semaphore may have been released: channels that wait look again at once."""
        for channel in self._gpu.pfifo.channels:
            if channel is not None and channel.retry_at:
                channel.retry_at = 1e-9

    def kick(self, channel: Channel) -> None:
        """Take a channel off its PBDMA and its engine: done at once unless it is being run; then at its next
        method, thread-block boundary or piece of a copy. It goes on later from there."""
        with self._changed:
            if self.current is not channel:
                channel.save()
                return
            channel.kicked = True
        self._gpu.pgraph.switch_out(channel)

    def due(self, channel: Channel) -> bool:
        """Whether the channel that is being run is to be switched out now."""
        return channel.kicked or 0 < channel.slice_end <= time.monotonic_ns()

    def give(self, number: int, until: int) -> None:
        """Give a channel a time slice: it runs, and rests from `until` (`time.monotonic_ns`; 0: never) on
        until it is given another one."""
        channel = self._gpu.pfifo.channels[number]
        if channel is None:
            return
        self._limit(channel, until)
        if channel.resting:
            channel.resting = False
            with self._changed:
                self._changed.notify_all()

    def pending(self, number: int) -> bool:
        """Whether a channel may run and may have something to do."""
        channel = self._gpu.pfifo.channels[number]
        return channel is not None and channel.ready and channel.runnable and not channel.retry_at

    def rest(self, number: int) -> None:
        """Take the time slice away that a channel has."""
        channel = self._gpu.pfifo.channels[number]
        if channel is not None:
            channel.resting = True
            self._limit(channel, 1)

    def _limit(self, channel: Channel, until: int) -> None:
        channel.slice_end = until
        self._gpu.pgraph.limit(channel)

    def discard(self, channel: Channel) -> None:
        """A channel left the channel table: stop its launch, release what it holds after its turn."""
        with self._changed:
            channel.enabled = False
            channel.stop = channel.stop or Stop.TRAP
            running = self.current is channel
            channel.scheduled = False
        if running:
            channel.kicked = True
            self._gpu.pgraph.abort(channel)
        else:
            self._release(channel)

    def _release(self, channel: Channel) -> None:
        self._gpu.pgraph.forget(channel)
        self._gpu.psubfifo.forget(channel)
        self._gpu.pfifo.forget_timeout(channel)
        self._gpu.mmu.release(channel.space)

    def close(self) -> None:
        """End the thread; a launch in progress is stopped."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        current = self.current
        if current is not None:
            self._gpu.pgraph.abort(current)
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        for channel in self._gpu.pfifo.channels:
            if channel is not None:
                self._gpu.pgraph.end_launch(channel)

    # The thread

    def _run(self) -> None:
        while True:
            with self._changed:
                channel = self._next()
                while channel is None and not self._closing:
                    self._changed.wait(self._patience())
                    channel = self._next()
                if self._closing or channel is None:
                    return
                self.current = channel
                self._last = channel.number
            began = time.monotonic_ns()
            turn = self._pusher.turn(channel)
            ended = time.monotonic_ns()
            self._gpu.counters.channels[channel.number].engine_ns += ended - began
            for listener in self.turn_listeners:
                listener(channel.number, began, ended)
            self._after(channel, turn)

    def _next(self) -> Channel | None:
        channels, playlist = self._gpu.pfifo.channels, self._gpu.pfifo.playlist
        if not playlist or not self._gpu.fifo_enabled:
            return None
        start = playlist.index(self._last) + 1 if self._last in playlist else 0
        now = 0.0
        for number in playlist[start:] + playlist[:start]:
            channel = channels[number]
            if channel is None or not channel.ready or not channel.runnable:
                continue
            if channel.retry_at:
                now = now or time.monotonic()
                if channel.retry_at > now:
                    continue
            return channel
        return None

    def _patience(self) -> float | None:
        due = [
            channel.retry_at
            for channel in self._gpu.pfifo.channels
            if channel is not None and channel.retry_at and channel.runnable
        ]
        return max(min(due) - time.monotonic(), 0.0) if due else None

    def _after(self, channel: Channel, turn: Turn) -> None:
        if turn is Turn.PARKED:
            channel.backoff = min(max(2 * channel.backoff, RETRY_MIN_S), RETRY_MAX_S)
            channel.retry_at = time.monotonic() + channel.backoff
        else:
            channel.backoff = channel.retry_at = 0.0
        over = 0 < channel.slice_end <= time.monotonic_ns() and turn in (Turn.MORE, Turn.SWITCHED)
        with self._changed:
            self.current = None
            if over:
                channel.resting = True
            gone = self._gpu.pfifo.channels[channel.number] is not channel
            if channel.kicked:
                channel.kicked = False
                if not gone:
                    channel.save()
        if gone:
            with self._gpu.locked():
                self._release(channel)
            return
        if turn is Turn.SWITCHED or over:
            self._gpu.counters.channels[channel.number].switches += 1
        if over or turn is Turn.PARKED:
            for tell in self.switch_listeners:
                tell(channel.number, turn is Turn.PARKED)
        if turn is Turn.IDLE and channel.progressed:
            channel.progressed = False
            for listener in self.idle_listeners:
                listener(channel.number)
