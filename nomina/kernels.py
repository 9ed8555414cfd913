"""The same layers with less overhead, for models that only read.

On CPUs oneDNN lays a weight out anew in every product; for readings of a few tokens that takes as
long as the product itself. `pack_linears` does it once. What is done to a product before it is
rounded and written costs next to nothing; `join_gates` has it do a gated layer's other two steps.
Knows torch alone, no language models.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


@functools.cache
def has_fast_bfloat16() -> bool:
    """Return whether this CPU computes in bfloat16, and torch has what makes use of it."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)


def _pad(input: torch.Tensor) -> tuple[torch.Tensor, int | None]:
    """Return rows with some of zeros behind them, and how many there were; None if none was added.

    oneDNN writes code for each number of rows that it meets, which takes as long as two or three
    products of a hundred rows, and half a megabyte; readings have all numbers of rows. At most an
    eighth is added.
    """
    num_rows = input.shape[:-1].numel()
    step = max(1 << num_rows.bit_length() >> 4, 1)
    if num_rows % step == 0:
        return input, None
    flat = input.reshape(num_rows, -1)
    return torch.nn.functional.pad(flat, (0, 0, 0, -num_rows % step)), num_rows


class _Packed:
    """`x @ weight.T + bias` with a weight laid out before."""

    def __init__(self, linear: nn.Linear) -> None:
        weight = linear.weight.detach()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def __call__(self, input: torch.Tensor) -> torch.Tensor:
        padded, num_rows = _pad(input)
        out = self.product(padded)
        return out if num_rows is None else out[:num_rows].view(*input.shape[:-1], -1)

    def product(self, input: torch.Tensor, step: str = "none", kind: str = "") -> torch.Tensor:
        """Return the product, after a step that oneDNN knows."""
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            input, self._weight, self._bias, step, [], kind
        )
        return out

    def times(self, input: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Return the product times a tensor of its shape."""
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            input, other, self._weight, self._bias, "mul"
        )
        return out


def pack_linears(module: nn.Module) -> int:
    """Lay the weights of linear layers out for reading; later changes of them have no effect.

    The layers keep their own weights too, so a model can still be saved; the copies take as much
    memory again (200 MB for the default model). The layer that scores the whole vocabulary is left
    as it is: grounded decoding never runs it. Nothing happens on other devices, in other types
    than bfloat16, and where torch has no oneDNN.

    Args:
        module: Changed in place.

    Returns:
        How many layers were packed.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call, unused-ignore]
        return 0
    count = 0
    find_head: Any = getattr(module, "get_output_embeddings", None)
    head = find_head() if find_head else None
    for layer in module.modules():
        if type(layer) is not nn.Linear or layer is head:
            continue
        if layer.weight.device.type != "cpu" or layer.weight.dtype != torch.bfloat16:
            continue
        try:
            packed = _Packed(layer)
        except (RuntimeError, NotImplementedError, AttributeError):  # a build without the operators
            return count
        layer.forward = packed  # type: ignore[method-assign, assignment]
        count += 1
    return count


# What oneDNN calls the activations of gated layers.
_STEPS = (("gelu", "tanh"), ("gelu", "none"), ("swish", ""))


class _Gated:
    """`down(act(gate(x)) * up(x))` of packed layers, in three products and nothing else."""

    def __init__(self, gate: _Packed, up: _Packed, down: _Packed, step: str, kind: str) -> None:
        self._gate, self._up, self._down = gate, up, down
        self._step = step, kind

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        padded, num_rows = _pad(x)
        inner = self._up.times(padded, self._gate.product(padded, *self._step))
        out = self._down.product(inner)
        return out if num_rows is None else out[:num_rows].view(*x.shape[:-1], -1)


def join_gates(module: nn.Module) -> int:
    """Let packed products do the activation and the multiplication of gated layers.

    Gated layers (Shazeer 2020) are told by the names of their parts, as nearly all families spell
    them, and by what they compute: one that is not `down(act(gate(x)) * up(x))`, tried on some
    random numbers, is left as it is. The result is a little more exact, as less is rounded.

    Args:
        module: Changed in place, after `pack_linears`.

    Returns:
        How many layers were joined.
    """
    count = 0
    for layer in module.modules():
        parts = [getattr(layer, f"{name}_proj", None) for name in ("gate", "up", "down")]
        packed = [getattr(part, "forward", None) for part in parts]
        if not all(isinstance(part, _Packed) for part in packed):
            continue
        joined = [_Gated(*packed, *step) for step in _STEPS]  # type: ignore[call-arg, arg-type]
        gate: Any = parts[0]
        try:
            with torch.inference_mode():
                errors = _errors(layer, joined, gate.in_features)
        except (TypeError, ValueError, AttributeError, RuntimeError):
            continue  # it takes or returns other things
        error, best = min(zip(errors, range(len(joined)), strict=True))
        if error < _ROUNDING:
            layer.forward = joined[best]  # type: ignore[method-assign, assignment]
            count += 1
    return count


_ROUNDING = 0.01  # relative, of a few products in bfloat16; half of it is usual


def _errors(layer: nn.Module, others: Sequence[_Gated], width: int) -> list[float]:
    """Return how far off others are, by row, relative to the layer, on small and large numbers."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.logspace(-2, 3, 12).unsqueeze(1)  # up to where some layers clamp
    x = (torch.randn(12, width, generator=generator) * sizes).to(torch.bfloat16)
    want = layer(x).float()
    return [float(((y(x) - want).norm(dim=1) / want.norm(dim=1)).max()) for y in others]
