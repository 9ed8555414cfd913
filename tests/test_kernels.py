"""Packed layers give the numbers of the layers that they stand for."""

import copy

import pytest
import torch
from conftest import build_module
from torch import nn

from nomina.kernels import _pad, join_gates, pack_linears

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN"
)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 24), (7, 24), (2, 65, 24), (1, 19, 24), (0, 24)])
def test_a_packed_layer_is_the_layer(bias, shape):
    layer = nn.Linear(24, 40, bias=bias, dtype=torch.bfloat16)
    want = nn.Sequential(copy.deepcopy(layer))
    have = nn.Sequential(layer)
    assert pack_linears(have) == 1
    x = torch.randn(shape, dtype=torch.bfloat16)
    with torch.inference_mode():
        torch.testing.assert_close(have(x), want(x), rtol=0.01, atol=0.01)
    assert have.state_dict().keys() == want.state_dict().keys()


@pytest.mark.parametrize("family", ["gemma3", "llama", "t5"])
def test_models_read_as_before(family):
    want = build_module(family, 300).to(torch.bfloat16)
    have = copy.deepcopy(want)
    assert pack_linears(have) > 4
    assert "forward" not in vars(have.get_output_embeddings())
    ids = {"input_ids": torch.arange(2, 30).unsqueeze(0)}
    if family == "t5":
        ids["decoder_input_ids"] = ids["input_ids"]
    with torch.inference_mode():
        torch.testing.assert_close(have(**ids).logits, want(**ids).logits, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("family", ["gemma3", "llama"])  # gelu by tanh, silu
def test_joined_gates_are_the_layer(family):
    want = build_module(family, 300).to(torch.bfloat16)
    have = copy.deepcopy(want)
    assert join_gates(have) == 0  # nothing is packed yet
    pack_linears(have)
    assert join_gates(have) == have.config.num_hidden_layers
    for one, other in zip(have.model.layers, want.model.layers, strict=True):
        assert "forward" in vars(one.mlp)
        x = torch.randn(3, 11, have.config.hidden_size, dtype=torch.bfloat16)
        with torch.inference_mode():
            rounded, joined = other.mlp(x).float(), one.mlp(x).float()
            exact = other.mlp.float()(x.float())
        assert (joined - exact).norm() < 0.01 * exact.norm()
        assert (joined - exact).norm() < 1.01 * (rounded - exact).norm()


def with_more(self, x):
    return self.act_fn(self.gate_proj(x)) * (self.up_proj(x) + 1)


def clamped(self, x):
    return self.act_fn(self.gate_proj(x)).clamp(max=10) * self.up_proj(x)


def of_two(self, x, y):
    return self.act_fn(self.gate_proj(x)) * self.up_proj(y)


def plain(self, x):
    return self.act_fn(self.gate_proj(x)) * self.up_proj(x)


@pytest.mark.parametrize(
    ("act", "inner", "count"),
    [
        (nn.SiLU(), plain, 1),
        (nn.GELU(), plain, 1),
        (nn.ReLU(), plain, 0),
        (nn.SiLU(), with_more, 0),
        (nn.SiLU(), clamped, 0),
        (nn.SiLU(), of_two, 0),
    ],
)
def test_gates_that_compute_something_else_are_left_alone(act, inner, count):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_proj = nn.Linear(16, 24, dtype=torch.bfloat16)
            self.up_proj = nn.Linear(16, 24, dtype=torch.bfloat16)
            self.down_proj = nn.Linear(24, 16, dtype=torch.bfloat16)
            self.act_fn = act

        def forward(self, *given):
            return self.down_proj(inner(self, *given))

    model = nn.Sequential(Odd())
    assert pack_linears(model) == 3
    assert join_gates(model) == count
    assert ("forward" in vars(model[0])) == bool(count)


def test_float32_is_left_alone():
    layer = nn.Linear(4, 4)
    assert pack_linears(nn.Sequential(layer)) == 0
    assert "forward" not in vars(layer)


def test_few_numbers_of_rows_are_read():
    sizes = set()
    for num_rows in range(1, 2049):
        padded, given = _pad(torch.empty(num_rows, 1))
        assert num_rows <= len(padded) <= 1.125 * num_rows
        assert given in (None, num_rows)
        sizes.add(len(padded))
    assert len(sizes) < 80
