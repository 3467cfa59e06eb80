"""Debian packages without root: a private apt that reads this machine's archive, a reader of .deb files, pinned
lists of packages, and private roots that programs of a newer Debian run from.
"""

from gpuvm.vmm.debian.archive import Archive, Package
from gpuvm.vmm.debian.deb import members, unpack
from gpuvm.vmm.debian.lock import Lock
from gpuvm.vmm.debian.root import PrivateRoot

__all__ = ["Archive", "Lock", "Package", "PrivateRoot", "members", "unpack"]
