"""Small steps add up in float32, whatever the weights are in."""

from __future__ import annotations

import pytest
import torch

from nomina.optimizer import MasterAdamW


def run(optimizer, weight, steps=50, gradient=0.3):
    for _ in range(steps):
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()


def test_float32_is_adamw_with_clipping():
    torch.manual_seed(0)
    mine, theirs = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    ours = MasterAdamW([mine], lr=0.01, weight_decay=0.1)
    adamw = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.98), weight_decay=0.1)
    for _ in range(20):
        gradient = torch.randn(5) * 3
        mine.grad, theirs.grad = gradient.clone(), gradient.clone()
        torch.nn.utils.clip_grad_norm_([theirs], 1.0)
        ours.step()
        adamw.step()
    assert torch.allclose(mine, theirs, atol=1e-6)


def test_steps_too_small_for_bfloat16_add_up():
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    run(MasterAdamW([weight], lr=1e-3), weight)
    # A step of 0.001 is less than half of bfloat16's 0.0039 below 1: alone it would be rounded off.
    assert weight[0].item() == pytest.approx(0.95, abs=0.003)


def test_a_loaded_state_is_not_rounded():
    weight, other = (torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16)) for _ in range(2))
    optimizer, again = (MasterAdamW([w], lr=1e-3) for w in (weight, other))
    run(optimizer, weight, 7)
    again.load_state_dict(optimizer.state_dict())
    for key in ("master", "exp_avg", "exp_avg_sq", "step"):
        assert again.state[other][key].dtype == torch.float32
        assert torch.equal(again.state[other][key], optimizer.state[weight][key])


def test_a_weight_without_gradient_stays():
    weight, idle = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = MasterAdamW([weight, idle], lr=1e-3, weight_decay=0.5)
    run(optimizer, weight, 2)
    assert bool((idle == 1).all())
    assert not optimizer.state[idle]
