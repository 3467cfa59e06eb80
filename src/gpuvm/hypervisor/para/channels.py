"""Channels of a para-virtual guest: the address space of a channel is what SET_PGD said, whatever its
instance block says.
"""

from __future__ import annotations

import struct

from gpuvm.hypervisor.channels import ADDRESS_LIMIT, DIRECTORY, LIMIT, ShadowChannel
from gpuvm.hypervisor.para.tables import Directory


class ParaChannel(ShadowChannel):
    """A channel whose page directory the hypervisor was told."""

    directory: Directory | None = None

    def _translate_space(self, view: memoryview, guest: int) -> None:
        (limit,) = struct.unpack_from("<Q", view, guest + LIMIT)
        found = self.directory
        shadow = (self._pool.empty, 0) if found is None else (found.address, min(limit, ADDRESS_LIMIT))
        struct.pack_into("<QQ", view, self.shadow + DIRECTORY, *shadow)
