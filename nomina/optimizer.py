"""AdamW whose weights are kept in float32 beside those of the model, and its learning rate.

Models are trained in bfloat16, in which a step of a thousandth of a weight is rounded away. The
optimiser therefore works on float32 copies (masters) and writes them back rounded; small steps add
up there. Knows nothing of models or losses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim.adamw import adamw

STATE_KEYS = ("master", "exp_avg", "exp_avg_sq")


class MasterAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter 2019) on float32 copies of the weights.

    Args:
        params: Weights, or groups of them.
        lr: Learning rate.
        betas: Decay of the two means.
        eps: Keeps the quotient finite.
        weight_decay: Decay of the weights themselves.
        max_norm: Gradients are scaled down to this norm, in float32; 0 for not.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_norm: float = 1.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "decay": weight_decay})
        self.max_norm = max_norm

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take a step and write the rounded weights to the model.

        Raises:
            FloatingPointError: If gradients are infinite or no numbers; the weights are as before.
        """
        scale = 1.0
        weights = [w for group in self.param_groups for w in group["params"] if w.grad is not None]
        if self.max_norm and weights:
            norms = [torch.linalg.vector_norm(w.grad, dtype=torch.float32) for w in weights]
            norm = float(torch.linalg.vector_norm(torch.stack(norms)))
            if not math.isfinite(norm):
                raise FloatingPointError("gradients are infinite or no numbers")
            scale = min(1.0, self.max_norm / (norm + 1e-6))
        for group in self.param_groups:
            moved = [w for w in group["params"] if w.grad is not None]
            for weight in moved:
                if not self.state[weight]:
                    self.start(weight)
            states = [self.state[weight] for weight in moved]
            adamw(
                [state["master"] for state in states],
                [weight.grad.float() * scale for weight in moved],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["decay"],
                eps=group["eps"],
                maximize=False,
            )
            for weight, state in zip(moved, states, strict=True):
                weight.copy_(state["master"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state as it is: the parent would round it to the type of the weights.

        accelerate calls this with the optimiser's own state when it prepares it.
        """
        super().load_state_dict(state_dict)
        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for key, weight in zip(keys, weights, strict=True):
            if kept := state_dict["state"].get(key):
                self.state[weight] = {
                    k: v if k == "step" else v.to(weight.device) for k, v in kept.items()
                }

    def start(self, weight: torch.Tensor, step: int = 0, **tensors: torch.Tensor) -> None:
        """Begin the state of a weight, or set it to what a checkpoint holds.

        Args:
            weight: One of the weights.
            step: Steps done.
            **tensors: Those of `STATE_KEYS`.
        """
        master = tensors.get("master", weight.detach()).to(weight.device, torch.float32).clone()
        state = {"step": torch.tensor(float(step)), "master": master}
        for key in STATE_KEYS[1:]:
            tensor = tensors.get(key)
            state[key] = torch.zeros_like(master) if tensor is None else tensor.to(weight.device)
        self.state[weight] = state
        if "master" in tensors:
            with torch.no_grad():
                weight.copy_(master)


def rate_factor(step: int, steps: int, warmup_steps: int) -> float:
    """Return the share of the highest learning rate at a step: warm-up, then linear to 3 %.

    Example:
        >>> [round(rate_factor(step, 100, 2), 3) for step in (0, 1, 50, 100)]
        [0.5, 0.99, 0.515, 0.03]
    """
    return min((step + 1) / max(warmup_steps, 1), 1.0) * (1 - 0.97 * step / max(steps, 1))
