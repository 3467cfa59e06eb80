"""The card's video BIOS, made by code: `layout` places tables and resolves pointers, `records` and `script` are
the tables' formats, `card` says what this product's tables hold.
"""

from gpuvm.gpu.vbios.card import PROM_BASE, PROM_SIZE, build

__all__ = ["PROM_BASE", "PROM_SIZE", "build"]
