"""The same layers with less overhead, for models that only read.

On CPUs oneDNN lays a weight out anew in every product; for readings of a few tokens that takes as
long as the product itself. `pack_linears` does it once. Knows torch alone, no language models.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class _Packed:
    """`x @ weight.T + bias` with a weight laid out before."""

    def __init__(self, linear: nn.Linear) -> None:
        weight = linear.weight.detach()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def __call__(self, input: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            input, self._weight, self._bias, "none", [], ""
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
