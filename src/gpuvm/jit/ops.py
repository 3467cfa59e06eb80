"""All operations that can be translated, by mnemonic."""

from __future__ import annotations

from gpuvm.jit import ops_convert, ops_float, ops_memory, ops_special, ops_video
from gpuvm.jit.ops_integer import OPERATIONS

__all__ = ["OPERATIONS", "ops_convert", "ops_float", "ops_memory", "ops_special", "ops_video"]
