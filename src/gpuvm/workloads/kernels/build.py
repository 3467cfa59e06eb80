"""Makes the `.ptx` beside every `.cu` here with NVRTC: `python -m gpuvm.workloads.kernels.build [--check]`.

The PTX opens with a comment that names the hash of its source, so that a test sees a kernel that was changed
but not built.
Needs the optional extra `cuda`.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

ARCHITECTURE = "compute_50"
"""The oldest target NVRTC 12 has; what these kernels use of it is a subset of what Fermi can do."""
HERE = Path(__file__).parent
MARK = "// source sha256 "


def sources() -> list[Path]:
    """The CUDA C files of this folder."""
    return sorted(HERE.glob("*.cu"))


def digest(source: Path) -> str:
    """Hash of a source and of the options that it is compiled with."""
    return hashlib.sha256(ARCHITECTURE.encode() + b"\0" + source.read_bytes()).hexdigest()


def recorded(ptx: Path) -> str:
    """The source hash that a PTX file names."""
    first = ptx.read_text().partition("\n")[0]
    if not first.startswith(MARK):
        raise ValueError(f"{ptx.name} must open with '{MARK.strip()}', not {first[:60]!r}; run build.py")
    return first.removeprefix(MARK).strip()


def compile_source(source: Path) -> str:
    """CUDA C to PTX by NVRTC, with the hash comment in front; raises RuntimeError with the compiler's log."""
    from cuda.bindings import nvrtc

    def check(result: tuple[Any, ...]) -> Any:
        if int(result[0]) != 0:
            raise RuntimeError(f"NVRTC must compile {source.name}, but returned {result[0].name}")
        return result[1] if len(result) > 1 else None

    program = check(nvrtc.nvrtcCreateProgram(source.read_bytes(), source.name.encode(), 0, [], []))
    options = [f"--gpu-architecture={ARCHITECTURE}".encode()]
    result = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if int(result[0]) != 0:
        log = bytearray(check(nvrtc.nvrtcGetProgramLogSize(program)))
        check(nvrtc.nvrtcGetProgramLog(program, log))
        raise RuntimeError(f"NVRTC must compile {source.name}, but says:\n{log.rstrip(bytes(1)).decode()}")
    text = bytearray(check(nvrtc.nvrtcGetPTXSize(program)))
    check(nvrtc.nvrtcGetPTX(program, text))
    check(nvrtc.nvrtcDestroyProgram(program))
    lines = text.rstrip(bytes(1)).decode().splitlines()
    # NVRTC's own comment names its build, which would differ from version to version.
    body = "\n".join(line.rstrip() for line in lines if not line.startswith("//")).strip()
    return f"{MARK}{digest(source)}\n{body}\n"


def main(arguments: list[str]) -> int:
    """Build every kernel; with --check only say which are stale."""
    stale = 0
    for source in sources():
        target = source.with_suffix(".ptx")
        text = compile_source(source)
        if target.exists() and target.read_text() == text:
            continue
        stale += 1
        if "--check" in arguments:
            print(f"{target.name} does not match {source.name}")
        else:
            target.write_text(text)
            print(f"{target.name} built")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
