"""PoCL 6 or later to compare kernels with: a private Debian root, and a worker inside it.

Debian 12 has PoCL 3.1, so a newer suite is unpacked with debootstrap into the cache directory (once;
about 1.2 GB, two minutes; needs root). `Peer` starts a Python there that runs the OpenCL twins of
`gpuvm.workloads` on request.

    python bench/pocl.py            prepare it and say what it is
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpuvm import directories
from gpuvm.vmm.debian import Archive
from gpuvm.vmm.errors import PackageError

SUITE = "forky"
PACKAGES = ("pocl-opencl-icd", "python3-pyopencl", "python3-numpy")
SOURCE = Path(__file__).resolve().parent.parent / "src"

# Runs inside the root: reads lines {"workload", "size", "repeat"}, writes lines {"seconds": [of a run, ...]}.
_WORKER = """
import contextlib, json, sys
sys.path.insert(0, "/opt/gpuvm")
from gpuvm.workloads import WORKLOADS
from gpuvm.workloads.opencl import OpenClDriver

class NoClock:
    def phase(self, name):
        return contextlib.nullcontext()

out, sys.stdout = sys.stdout, sys.stderr
driver = OpenClDriver("Portable")
print(json.dumps({"device": driver.device}), file=out, flush=True)
for line in sys.stdin:
    request = json.loads(line)
    workload = WORKLOADS[request["workload"]]
    inputs = workload.inputs(request["size"])
    runs = []
    for _ in range(request["repeat"]):
        driver.clear()
        workload.run(driver, inputs, NoClock())
        runs.append(sum(seconds for _, seconds in driver.kernel_s))
    print(json.dumps({"seconds": runs}), file=out, flush=True)
"""


def root_directory() -> Path:
    """Where the private root is kept."""
    return directories.cache(f"pocl-{SUITE}")


def prepare() -> Path:
    """Make the root if it is not there; its path.

    Raises
    ------
    SystemExit
        With a sentence, where it cannot be made.
    """
    root = root_directory()
    if (root / "ready").exists():
        return root
    if os.geteuid() != 0:
        raise SystemExit("the OpenCL peer needs root to unpack and enter its own Debian; run this as root")
    if shutil.which("debootstrap") is None:
        install = ["apt-get", "install", "-y", "-qq", "debootstrap"]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    print(f"unpacking Debian {SUITE} with PoCL into {root} (once, about two minutes) ...", file=sys.stderr)
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(root)]
    # Suites newer than the installed debootstrap have no script of their own; they are laid out as sid is.
    try:
        site = Archive().site
    except PackageError as error:
        raise SystemExit(str(error)) from None
    command += [site, "/usr/share/debootstrap/scripts/sid"]
    log = root.with_suffix(".log")
    with log.open("w") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SystemExit(f"debootstrap must succeed, but ended with {done.returncode}; read {log}")
    (root / "ready").touch()
    return root


class Peer:
    """The worker inside the private root.

    Attributes
    ----------
    device : str
        PoCL's version and device name.
    """

    def __init__(self) -> None:
        root = prepare()
        package = root / "opt" / "gpuvm" / "gpuvm"
        shutil.rmtree(package, ignore_errors=True)
        package.mkdir(parents=True)
        shutil.copy(SOURCE / "gpuvm" / "__init__.py", package)
        shutil.copytree(SOURCE / "gpuvm" / "workloads", package / "workloads")
        (root / "tmp").mkdir(exist_ok=True)
        devices = ["/dev/urandom", "/dev/null"]
        for device in devices:
            inside = root / device[1:]
            if not inside.exists():
                inside.touch()
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}
        # A mount namespace of its own: /proc and /sys, which PoCL reads the machine from, go with the worker.
        mounts = f"mount -t proc proc {root}/proc && mount -t sysfs -o ro sys {root}/sys"
        enter = f'{mounts} && exec chroot {root} python3 -c "$0"'
        command = ["unshare", "--mount", "sh", "-c", enter]
        self._process = subprocess.Popen(
            [*command, _WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.device = str(self._read()["device"])

    def seconds(self, workload: str, size: str, repeat: int) -> list[float]:
        """Run a workload's twin `repeat` times: seconds in kernels of each run, on the device's own clock."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"workload": workload, "size": size, "repeat": repeat}) + "\n")
        self._process.stdin.flush()
        return [float(s) for s in self._read()["seconds"]]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the OpenCL worker must answer, but it ended with {self._process.wait()}")
        got: dict[str, Any] = json.loads(line)
        return got


if __name__ == "__main__":
    peer = Peer()
    print(peer.device)
    peer.close()
