"""What goes wrong between gpuvm and a real virtual machine: one tree, each with a sentence for people."""

from __future__ import annotations


class VmError(Exception):
    """Root of the tree."""


class PackageError(VmError):
    """A Debian package or archive is not as it must be, or cannot be had."""


class Unpinned(PackageError):
    """A pinned package is no longer served; a new pin mends it."""


class ImageError(VmError):
    """The guest image cannot be built."""


class QemuError(VmError):
    """There is no QEMU that can do it, or it ends too early."""


class GuestError(VmError):
    """The guest does not do what it must: boot, bind the driver, answer."""


class GuestTimeout(GuestError):
    """It does not do so in time."""
