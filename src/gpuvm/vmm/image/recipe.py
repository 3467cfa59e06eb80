"""What the guest image is made of, as data: packages, kernel modules, files that are left out, commands."""

from __future__ import annotations

import re

SUITE = "trixie"
LOCK = f"{SUITE}.lock.json"

ROOTS = ("linux-image-amd64", "busybox-static", "python3-minimal", "libpython3-stdlib")
"""Packages whose dependencies hold all that is needed."""

KERNEL = "linux-image-6"
_WANTED = re.compile(
    r"linux-image-6|busybox-static$|libc6$|zlib1g$|libexpat1$|libffi8$|(python|libpython)3\.\d+-(minimal|stdlib)$"
)
"""Those of them that are taken: a kernel, a shell, Python and its libraries."""

MODULES = ("virtio_pci", "virtio_console", "nouveau")
_MODULES_BELOW = ("kernel/drivers/", "kernel/lib/", "kernel/crypto/", "kernel/net/core/")

PYTHON = "usr/bin/python3.13"
PYTHON_TAG = "cpython-313"

FOLDERS = ("dev", "proc", "sys", "run", "tmp", "root", "etc", "var/tmp")
LINKS = {
    "bin": "usr/bin",
    "sbin": "usr/bin",
    "usr/sbin": "bin",
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "usr/bin/python3": PYTHON.rpartition("/")[2],
}

SETTINGS = {
    # The card has no outputs: a framebuffer console on it would only be warned of.
    "etc/modprobe.d/headless.conf": "options drm_kms_helper fbdev_emulation=0\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/profile": "PS1='guest:\\w# '\n",
}
"""Small files of the guest's own."""

PROGRAMS = "usr/lib/gpuvm/guestprogs"
COMMANDS = {
    "gpuvm-agent": "agent",
    "gpuvm-info": "info",
    "gpuvm-stress": "stress",
    "gpuvm-fault": "trouble",
    "gpuvm-endless": "trouble",
}
"""Commands on the guest's PATH, and the program that each is."""

_LEFT_OUT = re.compile(
    r"usr/share/|etc/|usr/lib/python3\.\d+/sitecustomize|usr/lib/python3\.\d+/(test|idlelib|tkinter|turtledemo|ensurepip|lib2to3|pydoc_data|unittest"
    r"|distutils|venv|wsgiref|xmlrpc|dbm|curses|sqlite3|__phello__|_pyrepl|asyncio|concurrent|multiprocessing)/"
    r"|usr/lib/x86_64-linux-gnu/(gconv|audit)/|usr/lib/python3\.\d+/lib-dynload/_(codecs_..|test|dbm|curses|sqlite)"
)
_LIBC = re.compile(
    r"usr/lib/x86_64-linux-gnu/(ld-linux-x86-64|lib(c|m|dl|pthread|rt|util|resolv))\.so|usr/lib64/"
)


def wanted(package: str) -> bool:
    """Whether a package goes into the image."""
    return _WANTED.match(package) is not None


def may_need(path: str) -> bool:
    """Whether a module at this path (below /lib/modules/VERSION) may be one that the guest needs."""
    return path.startswith(_MODULES_BELOW)


def place(package: str, path: str) -> str | None:
    """Where a package's file goes in the image, None if it stays out."""
    folder = path.split("/")[0]
    if folder in ("bin", "sbin", "lib", "lib64"):
        path = f"usr/{path}"
    if path.startswith("usr/sbin/"):
        path = f"usr/bin/{path.removeprefix('usr/sbin/')}"
    if _LEFT_OUT.match(path) or (package == "libc6" and not _LIBC.match(path)):
        return None
    return path


def launcher(module: str) -> str:
    """The shell script that starts a program of the guest."""
    settings = "GPUVM_PROGRAM=${0##*/} PYTHONPATH=/usr/lib/gpuvm"
    return f'#!/bin/sh\n{settings} exec /usr/bin/python3 -S -m guestprogs.{module} "$@"\n'
