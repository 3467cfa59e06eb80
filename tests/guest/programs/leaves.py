"""Ends in every way that a program can end; takes how from its argument."""

import sys

from cuda.bindings.driver import cuCtxCreate, cuInit, cuMemAlloc

assert __name__ == "__main__"
assert __file__.endswith("leaves.py")
assert cuInit(0)[0] == 0
assert cuCtxCreate(0, 0)[0] == 0
assert cuMemAlloc(4096)[0] == 0
how = sys.argv[1]
if how == "status":
    sys.exit(3)
if how == "message":
    sys.exit("it did not work")
if how == "error":
    raise ValueError("a program's own error")
