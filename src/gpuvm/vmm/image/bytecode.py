"""Compiles the guest's Python files ahead: the guest's own interpreter runs here for it, since its bytecode is
that of no other version, and a guest that is emulated would take seconds for what an import needs.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from pathlib import Path

from gpuvm.vmm.debian import PrivateRoot
from gpuvm.vmm.errors import ImageError
from gpuvm.vmm.image import recipe
from gpuvm.vmm.image.cpio import Cpio

_TIMEOUT_S = 300
_COMPILE = """
import py_compile, sys
for line in sys.stdin:
    path = line.rstrip("\\n")
    py_compile.compile(
        sys.argv[1] + path, sys.argv[1] + path + "c", "/" + path, doraise=True,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
"""


def compiled(root: Cpio) -> None:
    """Put bytecode into the place of the library's sources, and beside those of the guest's programs.

    Raises
    ------
    ImageError
        If the guest's Python does not run here, or a file does not compile.
    """
    paths = [path for path, _, mode in root.files() if path.endswith(".py") and stat.S_ISREG(mode)]
    with tempfile.TemporaryDirectory(prefix="gpuvm-python-") as made:
        folder = Path(made)
        for path, data, mode in root.files():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if stat.S_ISLNK(mode):
                target.symlink_to(os.fsdecode(data))
            else:
                target.write_bytes(data)
                target.chmod(mode & 0o777)
        command = [*PrivateRoot(folder).command(recipe.PYTHON), "-S", "-B", "-c", _COMPILE, f"{folder}/"]
        environment = {"PYTHONHOME": str(folder / "usr"), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            command,
            input="".join(f"{path}\n" for path in paths),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            env=environment,
            check=False,
        )
        if done.returncode:
            said = done.stderr.strip().splitlines()
            raise ImageError(
                f"the guest's Python must compile its files, but says: {said[-1] if said else ''}"
            )
        for path in paths:
            data = (folder / f"{path}c").read_bytes()
            if path.startswith(
                recipe.PROGRAMS
            ):  # where a source stays, its bytecode lies in a folder beside it
                parent, _, name = path.rpartition("/")
                path = f"{parent}/__pycache__/{name.removesuffix('.py')}.{recipe.PYTHON_TAG}.pyc"
            else:
                root.remove(path)
                path += "c"
            root.file(path, data)
