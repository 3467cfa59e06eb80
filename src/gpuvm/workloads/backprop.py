"""BP: one training step of a layered neural network by back propagation (Rodinia)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gpuvm.workloads.base import Array, Arrays, Clock, Inputs, Parameters, Workload, WorkloadError
from gpuvm.workloads.program import Program, f32, pointer
from gpuvm.workloads.verdict import Verdict, close, worst

UNITS = 16
"""Hidden units, and inputs per block."""
RATE = 0.3
MOMENTUM = 0.3
UNIT_ROUNDOFF = 2.0**-24


class BackPropagation(Workload):
    """BP: `inputs` units in, 16 hidden, one out; the device has the large layer, the host the small one."""

    name = "BP"
    title = "back propagation"
    kernels = "backprop"
    sizes: ClassVar[Mapping[str, Parameters]] = {"paper": {"inputs": 65536}, "small": {"inputs": 512}}

    def validate(self, parameters: Parameters) -> None:
        count = parameters["inputs"]
        if count != int(count) or not UNITS <= count <= UNITS * 65535 or count % UNITS:
            raise WorkloadError(
                f"inputs of BP must be a multiple of {UNITS} up to {UNITS * 65535}, not {count}"
            )

    def generate(self, parameters: Parameters, rng: np.random.Generator) -> Arrays:
        """Inputs 0 to 1; weights scaled by the layer's size, so that the hidden units do not saturate."""
        count = int(parameters["inputs"])
        units = rng.random(count + 1, dtype=np.float32)
        units[0] = 1.0  # the bias
        scale = 4.0 / np.sqrt(count)
        weights = rng.uniform(-scale, scale, (count + 1, UNITS + 1)).astype(np.float32)
        previous = rng.uniform(-scale, scale, (count + 1, UNITS + 1)).astype(np.float32) / 16
        hidden_weights = rng.uniform(-1, 1, UNITS + 1).astype(np.float32)
        return {
            "units": units,
            "weights": weights,
            "previous": previous,
            "hidden_weights": hidden_weights,
            "target": np.array([0.1], np.float32),
        }

    def run(self, cu: Any, inputs: Inputs, clock: Clock) -> Arrays:
        units = inputs["units"]
        weights, previous = np.empty_like(inputs["weights"]), np.empty_like(inputs["previous"])
        rows = inputs.count("inputs") // UNITS
        partial = np.empty((rows, UNITS), np.float32)
        grid, block = (1, rows), (UNITS, UNITS)
        with Program(cu, clock, self.kernels) as gpu:
            with clock.phase("init"):
                d_units, d_partial = gpu.allocate(units.nbytes), gpu.allocate(partial.nbytes)
                d_weights, d_previous = gpu.allocate(weights.nbytes), gpu.allocate(previous.nbytes)
                d_delta = gpu.allocate(4 * (UNITS + 1))
            with clock.phase("htod"):
                gpu.upload(d_units, units)
                gpu.upload(d_weights, inputs["weights"])
            with clock.phase("launch"):
                gpu.launch("forward", grid, block, [pointer(d_units), pointer(d_weights), pointer(d_partial)])
                gpu.synchronize()
            with clock.phase("dtoh"):
                gpu.download(partial, d_partial)
            hidden, output, delta, hidden_weights = _small_layer(partial, inputs)
            with clock.phase("htod"):
                gpu.upload(d_delta, delta.astype(np.float32))
                gpu.upload(d_previous, inputs["previous"])
                gpu.upload(d_weights, inputs["weights"])
            with clock.phase("launch"):
                layer = [pointer(address) for address in (d_delta, d_units, d_weights, d_previous)]
                gpu.launch("adjust", grid, block, [*layer, f32(RATE), f32(MOMENTUM)])
                gpu.synchronize()
            with clock.phase("dtoh"):
                gpu.download(weights, d_weights)
                gpu.download(previous, d_previous)
        return {
            "partial": partial,
            "hidden": hidden,
            "output": output,
            "hidden_weights": hidden_weights,
            "weights": weights,
            "previous": previous,
        }

    def compute(self, inputs: Inputs) -> Arrays:
        units, weights, previous, outer, target = (
            inputs[name].astype(np.float64)
            for name in ("units", "weights", "previous", "hidden_weights", "target")
        )
        products = units[1:, None] * weights[1:, 1:]
        partial = products.reshape(-1, UNITS, UNITS).sum(axis=1)
        hidden = _squash(units @ weights[:, 1:])
        output = _squash(np.array([outer[0] + hidden @ outer[1:]]))
        output_delta = output * (1 - output) * (target - output)
        delta = hidden * (1 - hidden) * output_delta * outer[1:]
        change = previous.copy()
        change[:, 1:] = RATE * np.outer(units, delta) + MOMENTUM * previous[:, 1:]
        adjusted = weights.copy()
        adjusted[:, 1:] += change[:, 1:]
        return {
            "partial": partial,
            "magnitude": np.abs(products).reshape(-1, UNITS, UNITS).sum(axis=1),
            "hidden": hidden,
            "output": output,
            "hidden_weights": outer + RATE * output_delta * np.concatenate(([1.0], hidden)),
            "weights": adjusted,
            "previous": change,
        }

    def check(self, inputs: Inputs, outputs: Arrays) -> Verdict:
        want = self.reference(inputs)
        # A partial sum: a product and four levels of additions. The host adds in float64; the error of all
        # partial sums reaches the squashed units by a slope of at most 1/4, and all that follows by less.
        partial = 5 * UNIT_ROUNDOFF * want["magnitude"]
        unit = float(partial.sum(axis=0).max()) / 4 + 2 * UNIT_ROUNDOFF
        change = unit + 4 * UNIT_ROUNDOFF * np.abs(want["previous"])
        return worst(
            close("partial", outputs, want["partial"], partial),
            close("hidden", outputs, want["hidden"], unit),
            close("output", outputs, want["output"], UNITS * unit),
            close("hidden_weights", outputs, want["hidden_weights"], UNITS * unit),
            close("previous", outputs, want["previous"], change),
            close("weights", outputs, want["weights"], change + 2 * UNIT_ROUNDOFF * np.abs(want["weights"])),
        )


def _small_layer(partial: Array, inputs: Inputs) -> tuple[Array, Array, Array, Array]:
    """The host's part: hidden units, output unit, errors of the hidden units, adjusted outer weights."""
    sums = partial.sum(axis=0, dtype=np.float64) + inputs["weights"][0, 1:]
    hidden = _squash(sums)
    outer = inputs["hidden_weights"].astype(np.float64)
    output = _squash(outer[:1] + hidden @ outer[1:])
    error = output * (1.0 - output) * (inputs["target"] - output)
    delta = np.zeros(UNITS + 1)
    delta[1:] = hidden * (1.0 - hidden) * error * outer[1:]
    outer[0] += RATE * error[0]
    outer[1:] += RATE * error[0] * hidden
    return hidden, output, delta, outer


def _squash(x: Array) -> Array:
    result: Array = 1.0 / (1.0 + np.exp(-x))
    return result
