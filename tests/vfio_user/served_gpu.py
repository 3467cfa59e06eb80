"""The other process of the stories: a GF100 on a socket until its standard input ends.

python served_gpu.py SOCKET
"""

from __future__ import annotations

import sys

from gpuvm.gpu import Gf100
from gpuvm.vmm.vfio_user import Server
from gpuvm.vmm.vfio_user.bridge import endpoint


def main() -> None:
    with Gf100(vram=64 << 20) as gpu, Server(endpoint(gpu), sys.argv[1]):
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
