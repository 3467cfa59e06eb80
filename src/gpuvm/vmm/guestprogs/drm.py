"""nouveau's device node, spoken to directly: buffers, channels, objects and submissions by its ioctls, of the
interface that Mesa uses on this chip (no VM_BIND).
"""

from __future__ import annotations

import array
import errno
import fcntl
import mmap
import os
import struct
import time
from collections.abc import Iterable, Sequence
from types import TracebackType

DOMAIN_CPU, DOMAIN_VRAM, DOMAIN_GART, MAPPABLE = 1, 2, 4, 8

PARAMETERS = {
    "vendor": 3,
    "device": 4,
    "bus": 5,
    "vram": 8,
    "gart": 9,
    "chipset": 11,
    "units": 13,
    "time": 14,
    "bar1": 18,
    "vram_used": 19,
}
"""What GETPARAM tells, by number. `vram` and `gart` are bytes that clients may use."""

M2MF, COPY, RECTANGLE, GRAPHICS, COMPUTE = 0x9039, 0x90B5, 0x902D, 0x9097, 0x90C0

_WRITE, _READ = 1, 2


def _code(number: int, size: int, direction: int = _WRITE | _READ) -> int:
    return direction << 30 | size << 16 | ord("d") << 8 | number


_PARAM = struct.Struct("=QQ")
_CHANNEL = struct.Struct("=IIiII 16I I")
_OBJECT = struct.Struct("=iIi")
_GEM = struct.Struct("=IIQQQII")
_GEM_NEW = struct.Struct("=IIQQQII II")
_PUSHBUF = struct.Struct("=IIQIIQQIIQQ")
_BO = struct.Struct("=QIIII IIQ")
_PUSH = struct.Struct("=IIQQ")
_TWO = struct.Struct("=II")
_ONE = struct.Struct("=I")

GETPARAM = _code(0x40, _PARAM.size)
CHANNEL_ALLOC = _code(0x42, _CHANNEL.size)
CHANNEL_FREE = _code(0x43, 4, _WRITE)
OBJECT_ALLOC = _code(0x44, _OBJECT.size, _WRITE)
GEM_NEW = _code(0x80, _GEM_NEW.size)
GEM_PUSHBUF = _code(0x81, _PUSHBUF.size)
GEM_CPU_PREP = _code(0x82, _TWO.size, _WRITE)
GEM_CLOSE = _code(0x09, _TWO.size, _WRITE)

PREP_NOWAIT, PREP_WRITE = 1, 4


class Device:
    """The render node.

    Raises
    ------
    OSError
        If there is none.
    """

    def __init__(self, path: str = "/dev/dri/renderD128") -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def parameter(self, name: str) -> int:
        """A value of `PARAMETERS`."""
        data = bytearray(_PARAM.pack(PARAMETERS[name], 0))
        fcntl.ioctl(self.fd, GETPARAM, data)
        value: int = _PARAM.unpack(data)[1]
        return value

    def buffer(self, size: int, domain: int = DOMAIN_VRAM | MAPPABLE) -> Buffer:
        """Allocate a buffer of so many bytes."""
        return Buffer(self, size, domain)

    def channel(self) -> Channel:
        """Make a channel."""
        return Channel(self)

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Buffer:
    """A buffer: a handle, a fixed place in this client's GPU addresses, memory that the kernel moves about.

    Attributes
    ----------
    address : int
        GPU virtual.
    """

    def __init__(self, device: Device, size: int, domain: int) -> None:
        self._device = device
        self.domain = domain & (DOMAIN_VRAM | DOMAIN_GART)
        data = bytearray(_GEM_NEW.pack(0, domain, size, 0, 0, 0, 0, 0, 0x1000))
        fcntl.ioctl(device.fd, GEM_NEW, data)
        self.handle, _, self.size, self.address, self._place, *_ = _GEM_NEW.unpack(data)
        self._map: mmap.mmap | None = None

    @property
    def map(self) -> mmap.mmap:
        """Its bytes: plain memory if it is in GART, through BAR1 if it is in video memory."""
        if self._map is None:
            self._map = mmap.mmap(self._device.fd, self.size, offset=self._place)
        return self._map

    def wait(self, write: bool = True) -> None:
        """Wait until the GPU is done with it (or, to read it, with writing it)."""
        fcntl.ioctl(self._device.fd, GEM_CPU_PREP, _TWO.pack(self.handle, PREP_WRITE if write else 0))

    @property
    def busy(self) -> bool:
        """Whether the GPU still uses it."""
        try:
            fcntl.ioctl(self._device.fd, GEM_CPU_PREP, _TWO.pack(self.handle, PREP_WRITE | PREP_NOWAIT))
        except OSError as error:
            if error.errno == errno.EBUSY:
                return True
            raise
        return False

    def wait_for(self, seconds: float) -> bool:
        """Wait so long at most; whether the GPU is done with it."""
        end = time.monotonic() + seconds
        while self.busy:
            if time.monotonic() > end:
                return False
            time.sleep(0.005)
        return True

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None
        fcntl.ioctl(self._device.fd, GEM_CLOSE, _TWO.pack(self.handle, 0))


class Channel:
    """A channel, with a ring of pushbuffers that are used again when the GPU is done with them."""

    SLOTS, SLOT = 16, 4096

    def __init__(self, device: Device) -> None:
        self._device = device
        data = bytearray(_CHANNEL.pack(0, 0, 0, 0, 0, *[0] * 16, 0))
        fcntl.ioctl(device.fd, CHANNEL_ALLOC, data)
        unpacked = _CHANNEL.unpack(data)
        self.id: int = unpacked[2]
        self._notifier: int = unpacked[4]
        self.ring = device.buffer(self.SLOTS * self.SLOT, DOMAIN_GART | MAPPABLE)
        self._slot = 0
        self.submissions = 0

    def object(self, class_: int) -> None:
        """Make an object of a class; the pushbuffer binds it to a subchannel.

        Raises
        ------
        OSError
            ENODEV, EINVAL: the GPU has no such class.
        """
        fcntl.ioctl(self._device.fd, OBJECT_ALLOC, _OBJECT.pack(self.id, 0xBEEF0000 | class_, class_))

    def submit(
        self, words: Sequence[int], reads: Iterable[Buffer] = (), writes: Iterable[Buffer] = ()
    ) -> None:
        """Give the GPU commands; the kernel makes the buffers resident and waits for others that use them.

        Raises
        ------
        OSError
            If the kernel refuses: ENODEV after the channel was killed.
        """
        if self._slot == self.SLOTS:
            self.ring.wait()
            self._slot = 0
        at = self._slot * self.SLOT
        self._slot += 1
        data = array.array("I", words).tobytes()
        if len(data) > self.SLOT:
            raise ValueError(f"a pushbuffer must have at most {self.SLOT} bytes, got {len(data)}")
        self.ring.map[at : at + len(data)] = data
        used: dict[int, tuple[Buffer, int, int]] = {self.ring.handle: (self.ring, self.ring.domain, 0)}
        for buffer in reads:
            used[buffer.handle] = (buffer, buffer.domain, 0)
        for buffer in writes:
            used[buffer.handle] = (buffer, buffer.domain if buffer.handle in used else 0, buffer.domain)
        bos = bytearray()
        for buffer, read, write in used.values():
            bos += _BO.pack(0, buffer.handle, read, write, buffer.domain, 0, 0, 0)
        buffers, push = array.array("B", bos), array.array("B", _PUSH.pack(0, 0, at, len(data)))
        request = bytearray(
            _PUSHBUF.pack(
                self.id, len(used), buffers.buffer_info()[0], 0, 1, 0, push.buffer_info()[0], 0, 0, 0, 0
            )
        )
        fcntl.ioctl(self._device.fd, GEM_PUSHBUF, request)
        self.submissions += 1

    def wait(self) -> None:
        """Wait until all that was submitted is done."""
        self.ring.wait()

    def close(self) -> None:
        """Give it back; the kernel waits for its work, 15 s at most."""
        fcntl.ioctl(self._device.fd, CHANNEL_FREE, _ONE.pack(self.id))
        fcntl.ioctl(self._device.fd, GEM_CLOSE, _TWO.pack(self._notifier, 0))
        self.ring.close()
