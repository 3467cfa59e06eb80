"""A device's interrupts as a client sees them: for each index a number of vectors, each with an eventfd that
the client gave, masked or not.

Semantics: linux/vfio.h VFIO_DEVICE_SET_IRQS. INTx is masked by its own signal until the client unmasks it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Mapping

from gpuvm.vmm.vfio_user.channel import close_all
from gpuvm.vmm.vfio_user.errors import InvalidRequest, RequestError
from gpuvm.vmm.vfio_user.protocol import IrqFlags, IrqIndex, IrqSet
from gpuvm.vmm.vfio_user.records import IRQ_INFO, IRQ_SET, IrqInfo
from gpuvm.vmm.vfio_user.records import IrqSet as IrqSetRecord

MOST_VECTORS = 2048
"""What an MSI-X table can hold."""

_DATA = IrqSet.DATA_NONE | IrqSet.DATA_BOOL | IrqSet.DATA_EVENTFD
_ACTION = IrqSet.ACTION_MASK | IrqSet.ACTION_UNMASK | IrqSet.ACTION_TRIGGER
_ONE_KIND = (IrqSet.DATA_NONE, IrqSet.DATA_BOOL, IrqSet.DATA_EVENTFD)
_ONE_ACTION = (IrqSet.ACTION_MASK, IrqSet.ACTION_UNMASK, IrqSet.ACTION_TRIGGER)
_EVENTFD = "anon_inode:[eventfd]"

_FLAGS = {
    IrqIndex.INTX: IrqFlags.EVENTFD | IrqFlags.MASKABLE | IrqFlags.AUTOMASKED,
    IrqIndex.MSI: IrqFlags.EVENTFD | IrqFlags.NORESIZE,
    IrqIndex.MSIX: IrqFlags.EVENTFD | IrqFlags.NORESIZE,
    IrqIndex.ERR: IrqFlags.EVENTFD,
    IrqIndex.REQ: IrqFlags.EVENTFD,
}


class _Vector:
    __slots__ = ("fd", "masked", "pending")

    def __init__(self) -> None:
        self.fd = -1
        self.masked = False
        self.pending = False


class Interrupts:
    """All vectors of one device; outlives the clients. Methods may be called from any thread.

    Parameters
    ----------
    counts : mapping of IrqIndex to int
        Vectors by index; indices not named have none.
    """

    def __init__(self, counts: Mapping[IrqIndex, int]) -> None:
        for index, count in counts.items():
            if not 0 <= count <= MOST_VECTORS:
                raise ValueError(f"{index.name} may have 0 to {MOST_VECTORS} vectors, got {count}")
        if counts.get(IrqIndex.INTX, 0) > 1:
            raise ValueError(f"a function has at most one INTx pin, got {counts[IrqIndex.INTX]}")
        self._vectors = {index: [_Vector() for _ in range(counts.get(index, 0))] for index in IrqIndex}
        self._lock = threading.Lock()
        self._asserted = False
        self.signals = 0
        """Eventfds written."""

    # The device's side

    def message(self, vector: int) -> None:
        """Signal MSI-X vector `vector` if the client listens to it, else MSI's."""
        with self._lock:
            for index in (IrqIndex.MSIX, IrqIndex.MSI):
                vectors = self._vectors[index]
                if 0 <= vector < len(vectors) and vectors[vector].fd >= 0:
                    self._signal(vectors[vector])
                    return

    def level(self, asserted: bool) -> None:
        """Set the level of the INTx pin."""
        with self._lock:
            self._asserted = asserted
            self._show_level()

    def trigger(self, index: IrqIndex, vector: int = 0) -> bool:
        """Signal any vector; False if no client listens to it."""
        with self._lock:
            vectors = self._vectors[index]
            if not 0 <= vector < len(vectors) or vectors[vector].fd < 0:
                return False
            self._signal(vectors[vector])
            return True

    def _show_level(self) -> None:
        for pin in self._vectors[IrqIndex.INTX]:
            if self._asserted and pin.fd >= 0 and not pin.masked:
                pin.masked = True
                self._write(pin)

    def _signal(self, vector: _Vector) -> None:
        if vector.masked:
            vector.pending = True
        else:
            self._write(vector)

    def _write(self, vector: _Vector) -> None:
        # A full counter (EAGAIN) has signalled already; the client may have made anything of its descriptor.
        with contextlib.suppress(OSError):
            os.eventfd_write(vector.fd, 1)
            self.signals += 1

    # The client's side

    def info(self, data: memoryview) -> bytes:
        """The reply to DEVICE_GET_IRQ_INFO."""
        request = IRQ_INFO.unpack(data)
        if request.argsz < IRQ_INFO.size:
            raise InvalidRequest(f"argsz must be at least {IRQ_INFO.size}, got {request.argsz}")
        vectors = self._of(request.index)
        flags = _FLAGS[IrqIndex(request.index)]
        return IRQ_INFO.pack(IrqInfo(IRQ_INFO.size, flags, request.index, len(vectors)))

    def set(self, data: memoryview, fds: list[int]) -> None:
        """Do DEVICE_SET_IRQS; descriptors that are kept are taken out of `fds`.

        Raises
        ------
        RequestError
            If the request makes no sense; nothing has changed then.
        """
        request = IRQ_SET.unpack(data)
        action, kind = self._check(request, len(data) - IRQ_SET.size, len(fds))
        start, end = request.start, request.start + request.count
        index = IrqIndex(request.index)
        vectors = self._of(index)
        if kind == IrqSet.DATA_EVENTFD:
            for fd in fds:
                _check_eventfd(fd)
        chosen = vectors[start:end]
        if kind == IrqSet.DATA_BOOL:
            chosen = [vector for vector, flag in zip(chosen, data[IRQ_SET.size :], strict=False) if flag]
        with self._lock:
            if action == IrqSet.ACTION_MASK:
                for vector in chosen:
                    vector.masked = True
            elif action == IrqSet.ACTION_UNMASK:
                self._unmask(chosen)
            elif kind == IrqSet.DATA_EVENTFD and fds:
                for vector, fd in zip(chosen, fds, strict=True):
                    self._arm(vector, fd)
                fds.clear()
                self._show_level()
            elif kind == IrqSet.DATA_EVENTFD:
                for vector in chosen:
                    self._arm(vector, -1)
            elif not request.count:
                for vector in vectors:
                    self._arm(vector, -1)
            else:
                for vector in chosen:
                    if vector.fd >= 0:
                        self._write(vector)

    def disarm(self) -> None:
        """Close all descriptors: the client has gone. The level of the pin stays."""
        with self._lock:
            for vectors in self._vectors.values():
                for vector in vectors:
                    self._arm(vector, -1)

    def _unmask(self, vectors: list[_Vector]) -> None:
        for vector in vectors:
            vector.masked = False
            if vector.pending:
                vector.pending = False
                if vector.fd >= 0:
                    self._write(vector)
        self._show_level()

    def _arm(self, vector: _Vector, fd: int) -> None:
        if vector.fd >= 0:
            close_all([vector.fd])
        vector.fd = fd
        vector.masked = vector.pending = False

    def _of(self, index: int) -> list[_Vector]:
        if not 0 <= index < len(IrqIndex):
            raise InvalidRequest(f"an interrupt index must be below {len(IrqIndex)}, got {index}")
        return self._vectors[IrqIndex(index)]

    def _check(self, request: IrqSetRecord, tail: int, fds: int) -> tuple[IrqSet, IrqSet]:
        if request.argsz < IRQ_SET.size:
            raise InvalidRequest(f"argsz must be at least {IRQ_SET.size}, got {request.argsz}")
        vectors = self._of(request.index)
        if request.flags & ~int(_ACTION | _DATA):
            raise InvalidRequest(f"unknown flags {request.flags:#x}")
        action, kind = IrqSet(request.flags & _ACTION), IrqSet(request.flags & _DATA)
        if action not in _ONE_ACTION or kind not in _ONE_KIND:
            raise InvalidRequest(
                f"the flags must name one action and one kind of data, got {request.flags:#x}"
            )
        disable = action == IrqSet.ACTION_TRIGGER and kind == IrqSet.DATA_NONE
        if not request.count:
            if request.start or not disable:
                raise InvalidRequest("a count of 0 must come with start 0, DATA_NONE and ACTION_TRIGGER")
        elif request.start + request.count > len(vectors):
            raise InvalidRequest(
                f"vectors {request.start} to {request.start + request.count - 1} must be below {len(vectors)}"
            )
        if request.index in (IrqIndex.ERR, IrqIndex.REQ) and action != IrqSet.ACTION_TRIGGER:
            raise InvalidRequest(f"{IrqIndex(request.index).name} can be triggered only")
        if kind == IrqSet.DATA_BOOL and tail != request.count:
            raise InvalidRequest(f"{request.count} vectors take that many booleans, {tail} came")
        if fds and (kind != IrqSet.DATA_EVENTFD or fds != request.count):
            raise InvalidRequest(f"{fds} descriptors came for {request.count} vectors with {kind!r}")
        if kind == IrqSet.DATA_EVENTFD and action != IrqSet.ACTION_TRIGGER:
            raise RequestError(errno.ENOTSUP, "masking by eventfd is not supported; send MASK and UNMASK")
        return action, kind


def _check_eventfd(fd: int) -> None:
    """Refuse what is no eventfd, and see that a write to it cannot wait."""
    try:
        kind = os.readlink(f"/proc/self/fd/{fd}")
        os.set_blocking(fd, False)
    except OSError as error:
        raise RequestError(error.errno or errno.EBADF, "an interrupt's descriptor must be usable") from error
    if kind != _EVENTFD:
        raise InvalidRequest("an interrupt's descriptor must be an eventfd")
