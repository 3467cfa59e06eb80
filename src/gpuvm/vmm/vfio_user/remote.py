"""A device in another process as a `PciDevice` of this one, over a vfio-user client.

Writes to BARs are posted, everything else waits for its reply. When the server is lost the device behaves as
one that was pulled out: reads give all ones, writes are dropped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from gpuvm.pci.device import Bar, InterruptSink
from gpuvm.pci.memory import BusMemory
from gpuvm.vmm.vfio_user.bridge import CAP_MSI, CAP_MSIX, CAPABILITIES, STATUS
from gpuvm.vmm.vfio_user.channel import close_all
from gpuvm.vmm.vfio_user.client import Client
from gpuvm.vmm.vfio_user.errors import Disconnected, ProtocolError, RemoteError
from gpuvm.vmm.vfio_user.protocol import IrqIndex, RegionIndex

log = logging.getLogger(__name__)

_UNMASK_S = 0.0005
"""How long after an INTx the pin is listened to again; a pin that stays asserted repeats so often."""

_BAR0 = 0x10
_BAR_IO, _BAR_64, _BAR_PREFETCH = 1, 4, 8
_CONFIG = RegionIndex.CONFIG.value
_MSI_ENABLE, _MSIX_ENABLE = 0x0001, 0x8000

T = TypeVar("T")


class RemoteDevice:
    """A `PciDevice` that a vfio-user server hands out.

    Parameters
    ----------
    path : str or Path
        The server's socket.
    timeout_s : float
        The longest an access may take.

    Raises
    ------
    OSError, VfioUserError
        If there is no server, it has a client, or it is none.
    """

    def __init__(self, path: str | Path, timeout_s: float = 5.0) -> None:
        self.path = Path(path)
        self._timeout_s = timeout_s
        self._memory: BusMemory | None = None
        self._sink: InterruptSink | None = None
        self._maps: list[tuple[int, int]] = []
        self._lost = False
        self._changing = threading.RLock()
        self._ear: _Ear | None = None
        self._client = Client(self.path, timeout_s=timeout_s)
        try:
            self._counts = {index: self._client.irq_info(index).count for index in IrqIndex}
            self._bars = self._find_bars()
            self._control = self._find_controls()
        except BaseException:
            self._client.close()
            raise

    def _find_bars(self) -> tuple[Bar, ...]:
        bars = []
        for index in range(RegionIndex.BAR0, RegionIndex.ROM):
            details = self._client.region_info(index)
            if details.fd >= 0:
                os.close(details.fd)
            if details.info.size:
                flags = self._client.read(_CONFIG, _BAR0 + 4 * index, 4)
                memory = not flags & _BAR_IO
                bars.append(
                    Bar(
                        index,
                        details.info.size,
                        memory and bool(flags & _BAR_64),
                        memory and bool(flags & _BAR_PREFETCH),
                    )
                )
        return tuple(bars)

    def _find_controls(self) -> dict[IrqIndex, int]:
        """Where in configuration space MSI and MSI-X are switched on."""
        found: dict[IrqIndex, int] = {}
        if not self._client.read(_CONFIG, STATUS, 2) & 0x10:
            return found
        at = self._client.read(_CONFIG, CAPABILITIES, 1) & 0xFC
        for _ in range(48):
            if not at:
                break
            kind = self._client.read(_CONFIG, at, 1)
            if kind in (CAP_MSI, CAP_MSIX):
                found[IrqIndex.MSI if kind == CAP_MSI else IrqIndex.MSIX] = at + 2
            at = self._client.read(_CONFIG, at + 1, 1) & 0xFC
        return found

    # PciDevice

    @property
    def bars(self) -> Sequence[Bar]:
        return self._bars

    @property
    def lost(self) -> bool:
        """Whether the server has gone; `reconnect` when it is back."""
        return self._lost

    def connect(self, memory: BusMemory, interrupts: InterruptSink) -> None:
        """Plug the device in: the server maps the machine's memory and signals its interrupts."""
        with self._changing:
            self._memory, self._sink = memory, interrupts
            self._try(self._share, None)
            self._try(self._listen, None)

    def _share(self) -> None:
        for address, size in self._maps:
            self._client.dma_unmap(address, size)
        self._maps = []
        for region, base in self._memory.regions() if self._memory is not None else ():
            self._client.dma_map(base, region.size, fd=region.fd, offset=region.offset)
            self._maps.append((base, region.size))

    def config_read(self, offset: int, size: int) -> int:
        return self._try(lambda: self._client.read(_CONFIG, offset, size), (1 << 8 * size) - 1)

    def config_write(self, offset: int, size: int, value: int) -> None:
        with self._changing:
            self._try(lambda: self._client.write(_CONFIG, offset, size, value & (1 << 8 * size) - 1), None)
            if any(offset < at + 2 and at < offset + size for at in self._control.values()):
                self._try(self._listen, None)

    def read(self, bar: int, offset: int, size: int) -> int:
        if self._lost:
            return (1 << 8 * size) - 1
        try:
            return self._client.read(bar, offset, size)
        except RemoteError:
            return 0
        except (Disconnected, ProtocolError, OSError):
            self._lose()
            return (1 << 8 * size) - 1

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        if self._lost:
            return
        try:
            self._client.write(bar, offset, size, value & (1 << 8 * size) - 1, posted=True)
        except (Disconnected, ProtocolError, OSError):
            self._lose()

    def read_block(self, bar: int, offset: int, length: int, width: int = 4) -> bytes:
        """Read a run of bytes; the server makes it accesses of 4 bytes."""
        return self._try(
            lambda: self._client.read_block(bar, offset, length),
            b"\xff" * length if self._lost else bytes(length),
        )

    def write_block(self, bar: int, offset: int, data: bytes, width: int = 4) -> None:
        """Write a run of bytes; the server makes it accesses of 4 bytes."""
        self._try(lambda: self._client.write_block(bar, offset, bytes(data), posted=True), None)

    def reset(self) -> None:
        with self._changing:
            self._try(self._client.reset, None)
            self._try(self._listen, None)

    def close(self) -> None:
        """Close the connection; the device stays with its server."""
        with self._changing:
            self._lost = True
            self._stop_listening()
            self._client.close()

    def reconnect(self) -> None:
        """Connect again after the server was lost or restarted; memory and interrupts are handed over again.

        Raises
        ------
        OSError, VfioUserError
            As when it was made.
        """
        with self._changing:
            self._lost = True
            self._stop_listening()
            self._client.close()
            self._client = Client(self.path, timeout_s=self._timeout_s)
            self._lost, self._maps = False, []
            if self._memory is not None:
                self._share()
            if self._sink is not None:
                self._listen()

    def _try(self, access: Callable[[], T], otherwise: T) -> T:
        if self._lost:
            return otherwise
        try:
            return access()
        except RemoteError as error:
            log.warning("a remote device refused: %s", error)
            return otherwise
        except (Disconnected, ProtocolError, OSError):
            self._lose()
            return otherwise

    def _lose(self) -> None:
        if not self._lost:
            self._lost = True
            log.warning("the server of the remote device at %s is lost", self.path)

    # Interrupts

    def _listen(self) -> None:
        """Listen to the kind of interrupt that the guest has switched on, and to no other."""
        index = self._wanted()
        if self._ear is not None:
            if self._ear.index is index:
                return
            self._stop_listening()
        if not self._counts[index] or self._sink is None:
            return
        ear = _Ear(self, index, self._counts[index])
        try:
            self._client.listen(index, ear.fds)
        except BaseException:
            ear.stop()
            raise
        self._ear = ear

    def _wanted(self) -> IrqIndex:
        for index, bit in ((IrqIndex.MSIX, _MSIX_ENABLE), (IrqIndex.MSI, _MSI_ENABLE)):
            at = self._control.get(index)
            if at is not None and self._client.read(_CONFIG, at, 2) & bit:
                return index
        return IrqIndex.INTX

    def _stop_listening(self) -> None:
        ear, self._ear = self._ear, None
        if ear is not None:
            ear.stop()
            self._try(lambda: self._client.ignore(ear.index), None)

    def hear(self, index: IrqIndex, vector: int) -> None:
        """An interrupt came."""
        sink = self._sink
        if sink is None:
            return
        if index is IrqIndex.INTX:
            # The server does not say when the pin falls: it is a pulse that repeats until then.
            sink.level(True)
            sink.level(False)
        else:
            sink.message(vector)

    def unmask(self) -> None:
        """Have the INTx pin signal again, at once if it is still asserted."""
        self._try(lambda: self._client.unmask(IrqIndex.INTX), None)


class _Ear:
    """The eventfds of one kind of interrupt and the thread that listens to them."""

    def __init__(self, device: RemoteDevice, index: IrqIndex, vectors: int) -> None:
        self.index = index
        self.fds = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(vectors)]
        self._device = device
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._listen, name="vfio-user interrupts", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, which closes the eventfds."""
        os.eventfd_write(self._stop, 1)
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _listen(self) -> None:
        poll = select.poll()
        vectors = {fd: vector for vector, fd in enumerate(self.fds)}
        for fd in (*self.fds, self._stop):
            poll.register(fd, select.POLLIN)
        masked = False
        while True:
            ready = [fd for fd, _ in poll.poll(_UNMASK_S * 1000 if masked else None)]
            if self._stop in ready:
                break
            if masked and not ready:
                masked = False
                self._device.unmask()
            for fd in ready:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(fd)
                    masked = self.index is IrqIndex.INTX
                    self._device.hear(self.index, vectors[fd])
        close_all([*self.fds, self._stop])
