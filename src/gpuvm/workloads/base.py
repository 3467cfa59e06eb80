"""What a workload is: inputs, a program over the CUDA driver API, a reference answer and a verdict.

Everything above (the lab, the command) drives the benchmark programs through `Workload` alone. A workload
knows no GPU, no hypervisor and no guest: `run` gets an object with the functions of `cuda.bindings.driver`
and a clock.
"""

from __future__ import annotations

import abc
import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from gpuvm.workloads.verdict import Verdict

Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = Mapping[str, Array]
Parameters: TypeAlias = Mapping[str, int | float]

PHASES = ("init", "htod", "launch", "dtoh", "close")
"""The phases into which the papers divide a program's time. A program may enter a phase more than once."""

SIZES = ("paper", "small")
SEED = 2014
GENERATED = "generated"
CACHED_INPUTS = 2
"""Input sets that a workload keeps: the modes of one run share them, and 256 MiB ones must not pile up."""


class WorkloadError(ValueError):
    """A workload was asked for what it cannot do: an unknown size or parameter, or a file it cannot read."""


class Clock(Protocol):
    """Times the phases of a run; a phase that is entered again adds to its time."""

    def phase(self, name: str, /) -> AbstractContextManager[Any]:
        """Time what the `with` block does as one of `PHASES`."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """The input of one run; its arrays are read-only because runs share them.

    Attributes
    ----------
    workload, size : str
        Names of the workload and of the size ("paper" or "small").
    source : str
        "generated", or the files that were read and what was taken from them.
    parameters : mapping
        The numbers of the size: counts, iterations, coefficients.
    arrays : mapping
        NumPy arrays by name.
    """

    workload: str
    size: str
    source: str
    parameters: Parameters
    arrays: Arrays
    _answer: dict[str, Array] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    def count(self, name: str) -> int:
        """The parameter `name` as a whole number."""
        return int(self.parameters[name])

    def real(self, name: str) -> float:
        """The parameter `name` as a float."""
        return float(self.parameters[name])


@dataclass(frozen=True)
class Source:
    """What `Workload.read` found in a data directory; `parameters` replace those of the size."""

    arrays: Arrays
    text: str
    parameters: Parameters = field(default_factory=dict)


class Workload(abc.ABC):
    """One benchmark program. Stateless but for caches; safe to run from several threads at once."""

    name: ClassVar[str]
    """The papers' name, e.g. "HS"."""
    title: ClassVar[str]
    """What it computes, in a few words."""
    kernels: ClassVar[str | None] = None
    """Stem of its files in `kernels/`, or None for a program without a kernel."""
    sizes: ClassVar[Mapping[str, Parameters]]
    """Parameters of each of `SIZES`."""

    def __init__(self) -> None:
        self._cache: OrderedDict[tuple[object, ...], Inputs] = OrderedDict()
        self._lock = threading.Lock()

    def inputs(
        self, size: str, data: Path | None = None, seed: int = SEED, **parameters: int | float
    ) -> Inputs:
        """The input of a size, made deterministically from `seed` or read from `data`; cached.

        Parameters
        ----------
        size : "paper" or "small"
        data : Path, optional
            A directory laid out as Rodinia's `data/`. Workloads for which Rodinia has no file make theirs.
        **parameters
            Replace numbers of the size by name, e.g. `n=1000` for LOOP.

        Raises
        ------
        WorkloadError
            Unknown size or parameter, or a file that is missing or not in Rodinia's format.
        """
        if size not in self.sizes:
            known = ", ".join(self.sizes)
            raise WorkloadError(f"the size of {self.name} must be one of {known}, not {size!r}")
        values = dict(self.sizes[size])
        for key, value in parameters.items():
            if key not in values:
                known = ", ".join(values) or "none"
                raise WorkloadError(f"{self.name} has no parameter {key!r}; its parameters are: {known}")
            values[key] = value
        key_ = (size, data, seed, *sorted(values.items()))
        with self._lock:
            if key_ in self._cache:
                self._cache.move_to_end(key_)
                return self._cache[key_]
            made = self._make(size, data, seed, values)
            self._cache[key_] = made
            while len(self._cache) > CACHED_INPUTS:
                self._cache.popitem(last=False)
            return made

    def _make(self, size: str, data: Path | None, seed: int, values: dict[str, int | float]) -> Inputs:
        self.validate(values)
        found = None
        if data is not None:
            if not data.is_dir():
                raise WorkloadError(f"the data directory must hold Rodinia's folders, but {data} is none")
            found = self.read(data, values)
        if found is None:
            found = Source(self.generate(values, np.random.default_rng(seed)), GENERATED)
        values.update(found.parameters)
        arrays = dict(found.arrays)
        for array in arrays.values():
            array.setflags(write=False)
        return Inputs(self.name, size, found.text, values, arrays)

    def validate(self, parameters: Parameters) -> None:  # noqa: B027 - most sizes need no check
        """Refuse parameters that the program cannot run with, by `WorkloadError`."""

    def read(self, data: Path, parameters: Parameters) -> Source | None:
        """Read the input from Rodinia's files; None where Rodinia has none for this program."""
        return None

    @abc.abstractmethod
    def generate(self, parameters: Parameters, rng: np.random.Generator) -> Arrays:
        """Make an input of Rodinia's shape."""

    @abc.abstractmethod
    def run(self, cu: Any, inputs: Inputs, clock: Clock) -> Arrays:
        """Run the program.

        Parameters
        ----------
        cu : module or object
            The functions, enums and structs of `cuda.bindings.driver`.
        clock : Clock
            Is told which of `PHASES` the program is in.

        Returns
        -------
        mapping of str to ndarray
            Everything the program computed, as `reference` names it.

        Raises
        ------
        CudaError
            A driver call failed; the context is destroyed.
        """

    def reference(self, inputs: Inputs) -> Arrays:
        """The right answer, from an independent NumPy implementation; computed once per input."""
        with inputs._lock:
            if not inputs._answer:
                inputs._answer.update(self.compute(inputs))
            return inputs._answer

    @abc.abstractmethod
    def compute(self, inputs: Inputs) -> Arrays:
        """Compute what `reference` keeps."""

    @abc.abstractmethod
    def check(self, inputs: Inputs, outputs: Arrays) -> Verdict:
        """Compare every element with the reference: integers exactly, floats within a stated bound."""

    def forget(self) -> None:
        """Drop cached inputs and answers."""
        with self._lock:
            self._cache.clear()
