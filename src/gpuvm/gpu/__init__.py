"""One GF100 in software: an engine a file, a table that places them, a thread that runs channels."""

from gpuvm.gpu.device import Gf100
from gpuvm.gpu.profile import QUADRO_6000, SMALL, Profile

__all__ = ["QUADRO_6000", "SMALL", "Gf100", "Profile"]
