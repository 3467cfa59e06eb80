"""What the daemon is told: a TOML file, and flags that win over it. Every mistake ends as one sentence that
names the key, what must hold and what came.

    scheduler = "fifo"
    control = "/run/gpuvm/control.sock"

    [gpu]
    profile = "quadro-6000"
    vram = "2G"

    [[vm]]
    name = "alice"
    mode = "fv-naive"
    vram = "256M"
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from gpuvm.gpu.profile import PROFILES
from gpuvm.hypervisor import MODES
from gpuvm.schedulers import NAMES
from gpuvm.vmm.daemon.errors import DaemonError
from gpuvm.vmm.sizes import parse_size

MIB = 1 << 20
MAX_CHANNELS = 128
SOCKET_PATH_LIMIT = 107
"""Bytes that the path of a Unix socket may have."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_PROBLEM = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<where>[^`]*)`)?$", re.DOTALL)
_EXPECTED = re.compile(r"^Expected `(?P<wanted>[^`]*)`(?P<more>[^,]*)(?:, got `(?P<got>[^`]*)`)?$")
_FIELD = re.compile(r"^Object (?P<how>contains unknown|missing required) field `(?P<name>[^`]*)`$")
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "object": "a table",
    "array": "a list of tables",
}

Positive = Annotated[int, msgspec.Meta(ge=1)]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]


class ConfigError(DaemonError):
    """The configuration does not make sense; the text is one sentence for people."""


class GpuConfig(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The physical GPU.

    Attributes
    ----------
    profile : str
        A name in `gpu.profile.PROFILES`.
    vram : int
        Bytes of video memory, whole MiB; only what is touched costs memory.
    watchdog : float
        Seconds after which a launch is stopped; 0: never.
    reserve : int
        Bytes of video memory that the hypervisor keeps for shadows; 0: an eighth, at least 24 MiB.
    copy_engines : bool
        Whether the fuses show the copy engines; Linux cannot use a GF100's and its log complains of them.
    """

    profile: str = "quadro-6000"
    vram: Positive = 2048 * MIB
    watchdog: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    reserve: Annotated[int, msgspec.Meta(ge=0)] = 0
    copy_engines: bool = False


class VmConfig(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One VM: its virtual GPU and the socket that it is served on.

    Attributes
    ----------
    name : str
    mode : str
        A name in `hypervisor.MODES`.
    socket : str
        Path; empty: NAME.sock beside the control socket.
    vram : int
        Bytes of video memory. Pass-through has all of it.
    channels : int
    weight : int
        Relative share of GPU time.
    cap : float
        Most GPU time in percent, 0: no limit; for schedulers that know caps.
    write_multiple : bool
        Whether the client may send many register writes in one message: QEMU since 11.0. Older ones ask for
        it and then get it wrong.
    sealed : bool
        Whether the VM's memory must be a memfd that cannot shrink, as QEMU's memory-backend-memfd makes.
        Without that a client can end the daemon by truncating its memory.
    """

    name: str
    mode: str = "fv-naive"
    socket: str = ""
    vram: Positive = 256 * MIB
    channels: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHANNELS)] = 16
    weight: Positive = 1
    cap: Percent = 0.0
    write_multiple: bool = True
    sealed: bool = True


class Config(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """All of it.

    Attributes
    ----------
    scheduler : str
        A name in `schedulers.NAMES`.
    control : str
        Path of the control socket.
    drain : float
        Seconds that submitted work may take to finish when the daemon ends.
    """

    gpu: GpuConfig = msgspec.field(default_factory=GpuConfig)
    scheduler: str = "fifo"
    control: str = ""
    drain: Annotated[float, msgspec.Meta(ge=0, le=60)] = 2.0
    vm: list[VmConfig] = []


def default_control() -> str:
    """Where the control socket is if nobody says: the user's run-time folder, or /tmp's own for the user."""
    folder = os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/gpuvm-{os.getuid()}"
    return str(Path(folder) / "gpuvm" / "control.sock")


def load(path: Path | None, changes: Mapping[str, Any] | None = None) -> Config:
    """Read a configuration file (or none) and let `changes`, of the same shape, win over it. A list of VMs in
    `changes` comes after the file's; a VM of the same name changes the file's.

    Raises
    ------
    ConfigError
        If it cannot be read or does not make sense.
    """
    raw: dict[str, Any] = {}
    if path is not None:
        try:
            raw = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"{path} must be a file that can be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} must be TOML: {error}") from None
    return build(_merge(raw, changes or {}))


def build(raw: Mapping[str, Any]) -> Config:
    """Make a configuration of plain data and check it.

    Raises
    ------
    ConfigError
        If it does not make sense.
    """
    config = _convert(raw, Config)
    if not config.control:
        config.control = default_control()
    _check_socket("control", config.control)
    _one_of("scheduler", config.scheduler, NAMES)
    _one_of("gpu.profile", config.gpu.profile, PROFILES)
    if config.gpu.vram % MIB:
        raise ConfigError(f"gpu.vram must be whole MiB, got {config.gpu.vram} bytes")
    for vm in config.vm:
        complete(vm, config.control)
    seen: dict[str, str] = {"control": config.control}
    for vm in config.vm:
        if vm.name in seen and vm.name != "control":
            raise ConfigError(f"vm.name must be given once, got {vm.name!r} twice")
        if vm.socket in seen.values():
            raise ConfigError(f"each VM must have a socket of its own, got {vm.socket} twice")
        seen[vm.name] = vm.socket
    return config


def build_vm(raw: Mapping[str, Any], control: str) -> VmConfig:
    """Make and check the configuration of one VM.

    Raises
    ------
    ConfigError
        If it does not make sense.
    """
    vm = _convert(raw, VmConfig)
    complete(vm, control)
    return vm


def complete(vm: VmConfig, control: str) -> None:
    """Fill in a VM's socket and check what types cannot say.

    Raises
    ------
    ConfigError
        If it does not make sense.
    """
    if not _NAME.fullmatch(vm.name) or vm.name == "control":
        raise ConfigError(
            "vm.name must be 1 to 32 letters, digits, '.', '_' or '-', start with a letter or digit and not be "
            f"'control', got {vm.name!r}"
        )
    _one_of(f"mode of VM {vm.name!r}", vm.mode, MODES)
    vm.socket = vm.socket or str(Path(control).parent / f"{vm.name}.sock")
    _check_socket(f"socket of VM {vm.name!r}", vm.socket)


def _one_of(key: str, name: str, valid: Collection[str]) -> None:
    if name not in valid:
        raise ConfigError(f"{key} must be one of {', '.join(valid)}, got {name!r}")


def _check_socket(key: str, path: str) -> None:
    if len(os.fsencode(path)) > SOCKET_PATH_LIMIT:
        raise ConfigError(f"{key} must be a path of at most {SOCKET_PATH_LIMIT} bytes, got {path!r}")
    if "\0" in path:
        raise ConfigError(f"{key} must be a path, got {path!r}")


def _merge(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(raw)
    for key, value in changes.items():
        if key == "vm":
            merged["vm"] = _merge_vms(merged.get("vm", []), value)
        elif isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = {**merged[key], **value}
        else:
            merged[key] = value
    return merged


def _merge_vms(file: Any, flags: Sequence[Mapping[str, Any]]) -> Any:
    if not isinstance(file, list):
        return file  # which is refused for its type
    vms = list(file)
    for change in flags:
        for at, vm in enumerate(vms):
            if isinstance(vm, Mapping) and vm.get("name") == change.get("name"):
                vms[at] = {**vm, **change}
                break
        else:
            vms.append(change)
    return vms


# From plain data

Record = TypeVar("Record", Config, VmConfig)


def _convert(raw: Mapping[str, Any], kind: type[Record]) -> Record:
    raw = _with_sizes(raw)
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), raw, kind)) from None


def _with_sizes(raw: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The same with sizes that are texts as bytes."""
    result: dict[str, Any] = {}
    for key, value in raw.items():
        name = f"{where}{key}"
        if key in ("vram", "reserve") and isinstance(value, str):
            try:
                value = parse_size(value)
            except ValueError as error:
                raise ConfigError(f"{name} must be {error}") from None
        elif isinstance(value, Mapping):
            value = _with_sizes(value, f"{name}.")
        elif isinstance(value, list):
            value = [
                _with_sizes(each, f"{name}[{at}].") if isinstance(each, Mapping) else each
                for at, each in enumerate(value)
            ]
        result[key] = value
    return result


def _explain(problem: str, raw: Mapping[str, Any], kind: type[Record]) -> str:
    """One sentence of what msgspec found."""
    match = _PROBLEM.match(problem)
    assert match is not None
    what, where = match["what"], (match["where"] or "").lstrip(".")
    if field := _FIELD.match(what):
        key = f"{where}.{field['name']}" if where else field["name"]
        if field["how"] == "missing required":
            return f"{key} must be given, and is not there"
        return f"{key} must be one of the keys {', '.join(_keys(kind, where))}"
    found = _at(raw, where)
    if expected := _EXPECTED.match(what):
        types = " or ".join(
            _TYPES.get(name.strip(), name.strip())
            for name in expected["wanted"].split("|")
            if name.strip() != "null"
        )
        return f"{where or 'the configuration'} must be {types}{expected['more']}, got {found!r}"
    return f"{where or 'the configuration'}: {what}, got {found!r}"


def _keys(kind: type[Record], where: str) -> tuple[str, ...]:
    if kind is VmConfig or where.startswith("vm"):
        return VmConfig.__struct_fields__
    return GpuConfig.__struct_fields__ if where == "gpu" else Config.__struct_fields__


def _at(raw: Any, where: str) -> Any:
    """The value at a path such as `vm[0].vram`."""
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", where):
        try:
            raw = raw[key] if key else raw[int(index)]
        except (KeyError, IndexError, TypeError):
            return None
    return raw
