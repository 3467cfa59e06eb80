"""LLVM as this package uses it: IR text to object code for this CPU, and object code to callable
addresses."""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Iterable, Mapping

import llvmlite.binding as llvm

LONG = 4000
"""Lines of IR from which on a module is optimised by `LONG_PASSES`."""

LONG_PASSES = (
    "always_inliner", "global_dead_code_eliminate", "sroa", "simplify_cfg", "instruction_combine", "simplify_cfg",
    "loop_simplify", "loop_rotate", "new_gvn", "aggressive_dce", "simplify_cfg",
)  # fmt: skip
"""What matters of level 1, each once: level 1 combines instructions six times, and half of a long kernel's
compilation goes there. The code is as fast (within 15 % for 26,000 lines, no difference below 10,000)."""

_lock = threading.RLock()
_numbers = itertools.count()


class Target:
    """The CPU that code is made for.

    Attributes
    ----------
    cpu, features : str
        LLVM's names.
    unit : int
        32-bit lanes of one native vector register: 16 with AVX-512, 8 with AVX2, else 4.
    """

    def __init__(self) -> None:
        with _lock:
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            llvm.initialize_native_asmparser()
            self.triple: str = llvm.get_process_triple()
            self.cpu: str = llvm.get_host_cpu_name()
            features = llvm.get_host_cpu_features()
            self.features: str = features.flatten()
            self.avx512: bool = all(
                features.get(f, False) for f in ("avx512f", "avx512bw", "avx512dq", "avx512vl")
            )
            self.avx2: bool = features.get("avx2", False) and features.get("fma", False)
            self.unit: int = 16 if self.avx512 else 8 if self.avx2 else 4
            self.version = ".".join(str(part) for part in llvm.llvm_version_info)
            target = llvm.Target.from_triple(self.triple)
            self.machine = target.create_target_machine(
                cpu=self.cpu, features=self.features, opt=2, reloc="pic", codemodel="small", jit=True
            )
            self.layout = str(self.machine.target_data)
            # JITLink keeps the sections of an object together; the older linker maps each on its own, and
            # beside
            # terabyte reservations of address space they end up out of a 32-bit relocation's reach.
            self._jit = llvm.create_lljit_compiler(
                target.create_target_machine(
                    cpu=self.cpu, features=self.features, opt=2, reloc="pic", codemodel="small", jit=True
                ),
                use_jit_link=True,
            )

    def header(self) -> str:
        """The first lines of a module."""
        return f'target triple = "{self.triple}"\ntarget datalayout = "{self.layout}"\n'

    def attributes(self, clears: bool = False) -> str:
        """Function attributes that every function carries.

        Parameters
        ----------
        clears : bool
            LLVM may clear the vector registers' upper halves before calls and returns. It does that even where a
            calling convention keeps them, so only a function may that calls nothing; `gpuvm_run` clears them for
            all others.
        """
        width = 32 * self.unit
        features = self.features if clears else f"{self.features},-vzeroupper"
        return (
            f'"target-cpu"="{self.cpu}" "target-features"="{features}" "prefer-vector-width"="{width}" '
            f'"min-legal-vector-width"="{width}" nounwind'
        )

    def compile(self, ir: str, level: int = 1) -> bytes:
        """Optimise and translate a module of IR text; return the object file."""
        with _lock:
            module = llvm.parse_assembly(ir)
            module.verify()
            self._optimise(module, ir, level)
            return bytes(self.machine.emit_object(module))

    def _optimise(self, module: llvm.ModuleRef, ir: str, level: int) -> None:
        if level == 0:
            return
        options = llvm.create_pipeline_tuning_options(speed_level=level)
        options.loop_vectorization = False
        options.slp_vectorization = False
        options.loop_unrolling = level > 1
        builder = llvm.create_pass_builder(self.machine, options)
        if level > 1 or ir.count("\n") < LONG:
            builder.getModulePassManager().run(module, builder)
            return
        manager = llvm.create_new_module_pass_manager()
        for name in LONG_PASSES:
            getattr(manager, f"add_{name}_pass")()
        manager.run(module, builder)

    def assembly(self, ir: str, level: int = 1) -> str:
        """The assembly that `compile` would have made (for people)."""
        with _lock:
            module = llvm.parse_assembly(ir)
            self._optimise(module, ir, level)
            return str(self.machine.emit_assembly(module))

    def load(self, code: bytes, exports: Iterable[str], imports: Mapping[str, int]) -> Library:
        """Link object code into this process."""
        with _lock:
            builder = llvm.JITLibraryBuilder().add_object_img(code)
            for name in exports:
                builder.export_symbol(name)
            for name, address in imports.items():
                builder.import_symbol(name, address)
            return Library(builder.link(self._jit, f"gpuvm{next(_numbers)}"), code)


class Library:
    """Linked code. Keep it alive while any address of it may be called."""

    def __init__(self, tracker: llvm.orcjit.ResourceTracker, code: bytes) -> None:
        self._tracker = tracker
        self.code = code

    def __getitem__(self, name: str) -> int:
        return int(self._tracker[name])


def libc_address(name: str) -> int:
    """Address of a C library function."""
    found = ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value
    if found is None:
        raise RuntimeError(f"the C library must have {name}; it does not")
    return found


_target: Target | None = None


def target() -> Target:
    """The one Target of this process."""
    global _target
    with _lock:
        if _target is None:
            _target = Target()
        return _target
