"""The loss is what it says, whatever the batch looks like and however it is computed."""

from __future__ import annotations

import pytest
import torch
import transformers

from nomina import objective as room
from nomina.batches import collate, encode, pack
from nomina.entities import Example, LabelSet
from nomina.mixture import Question
from nomina.models import choice_logits
from nomina.objective import FOLDED, Objective, can_pack, compile_layers, fold_attention

ROWS = [
    Example.from_tags(["in", "Oslo", "now"], ["O", "B-city", "O"]),
    Example.from_tags(["Anna", "Berg", "spoke"], ["B-person", "I-person", "O"]),
    Example.from_tags(["nothing"], ["O"]),
]
LABELS = LabelSet.of(["city", "person"])


def questions(model):
    return [encode(model, Question(row, LABELS)) for row in ROWS]


def loss_and_gradients(module, batch, kind="decisions"):
    module.zero_grad()
    loss = Objective(module, kind)(**batch)["loss"]
    loss.backward()
    gradients = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    module.zero_grad()
    return loss.detach(), gradients


def assert_same(one, other):
    assert torch.allclose(one[0], other[0], rtol=1e-5, atol=1e-6)
    assert len(one[1]) == len(other[1])
    for a, b in zip(one[1], other[1], strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=2e-4 * float(a.abs().max() + 1e-6))


@pytest.mark.parametrize("family", ["gemma3", "llama", "t5"])
@pytest.mark.parametrize("form", ["inline", "gner"])
def test_padding_changes_no_loss(build_model, family, form):
    model = build_model(family, form)
    items = questions(model)
    objective = Objective(model.module)
    with torch.inference_mode():
        alone = [objective(**collate([x], 0, model.start_id))["loss"] for x in items]
        together = objective(**collate(items, 0, model.start_id))["loss"]
    counts = [len(item.choices) for item in items]
    mean = sum(float(a) * n for a, n in zip(alone, counts, strict=True)) / sum(counts)
    assert float(together) == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize("family", ["gemma3", "llama"])
@pytest.mark.parametrize("kind", ["decisions", "tokens"])
@pytest.mark.parametrize("is_folded", [False, True])
def test_packing_changes_neither_loss_nor_gradients(build_model, family, kind, is_folded):
    # gemma3's sliding window of 9 is shorter than the prompt: it must count positions, not places.
    model = build_model(family)
    module = model.module
    if is_folded:
        assert fold_attention(module)
        assert module.config._attn_implementation == FOLDED
    items = questions(model)
    rows = pack(items, 500)
    assert [len(row) for row in rows] == [3]
    packed = loss_and_gradients(module, collate([*rows, items[0]], 0), kind)
    plain = loss_and_gradients(module, collate([*items, items[0]], 0), kind)
    assert_same(plain, packed)


@pytest.mark.parametrize("family", ["gemma3", "llama"])
def test_folded_attention_is_attention(build_model, family):
    model = build_model(family)
    batch = collate(questions(model), 0)
    plain = loss_and_gradients(model.module, batch)
    assert fold_attention(model.module)
    assert_same(plain, loss_and_gradients(model.module, batch))


def test_what_cannot_be_folded_or_packed_is_left_alone(build_model):
    module = build_model("t5").module
    assert not fold_attention(module)
    assert not can_pack(module.config)


def test_the_loss_on_tokens_is_cross_entropy(build_model, monkeypatch):
    model = build_model("llama")
    batch = collate(questions(model), 0)
    monkeypatch.setattr(room, "_CHUNK", 7)  # several parts
    with torch.inference_mode():
        have = Objective(model.module, "tokens")(**batch)["loss"]
        logits = model.module(batch["input_ids"]).logits[:, :-1].log_softmax(-1)
        want = -logits.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    assert float(have) == pytest.approx(float(want[batch["target_mask"][:, :-1]].mean()), abs=1e-4)


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("family", ["T5", "MT5"])
def test_the_head_is_the_familys_own(family, is_tied):
    # T5 1.1 (FLAN, GNER-T5) and mT5 give the head what the decoder says; T5 1.0 scales it.
    made = getattr(transformers, f"{family}Config")(
        vocab_size=60, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=2,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, tie_word_embeddings=is_tied,
    )  # fmt: skip
    torch.manual_seed(0)
    module = getattr(transformers, f"{family}ForConditionalGeneration")(made).eval()
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.5)
    given, asked = torch.tensor([[5, 6, 7]]), torch.tensor([[0, 8, 9, 1]])
    with torch.inference_mode():
        out = module(input_ids=given, decoder_input_ids=asked, output_hidden_states=True)
        hidden = out.decoder_hidden_states[-1][0]  # (4, width)
        choices = torch.tensor([[3, 4, 5]] * 4)
        assert torch.allclose(
            choice_logits(module, hidden, choices), out.logits[0][:, 3:6], atol=1e-4
        )
        batch = {
            "input_ids": asked, "encoder_ids": given, "encoder_mask": torch.ones_like(given).bool(),
            "target_mask": torch.tensor([[True, True, True, False]]),
        }  # fmt: skip
        have = Objective(module, "tokens")(**batch)["loss"]
        want = torch.nn.functional.cross_entropy(out.logits[0, :3], asked[0, 1:])
    assert float(have) == pytest.approx(float(want), abs=1e-4)


@pytest.mark.parametrize(
    ("family", "scaling"),
    [
        ("Granite", {"logits_scaling": 8.0}),
        ("MiniCPM3", {"dim_model_base": 8}),  # logits_scaling is 16 / 8
        ("Cohere", {"logit_scale": 0.0625}),
        ("Llama", {}),
    ],
)
def test_logits_are_scaled_as_the_family_scales_them(family, scaling):
    if not hasattr(transformers, f"{family}Config"):
        pytest.skip(f"this transformers has no {family}")
    made = getattr(transformers, f"{family}Config")(
        vocab_size=60, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, pad_token_id=0, eos_token_id=1, **scaling,
    )  # fmt: skip
    torch.manual_seed(0)
    module = getattr(transformers, f"{family}ForCausalLM")(made).eval()
    asked = torch.tensor([[2, 5, 6, 7, 1]])
    with torch.inference_mode():
        out = module(input_ids=asked, output_hidden_states=True)
        have = choice_logits(module, out.hidden_states[-1][0], torch.tensor([[3, 4, 5]] * 5))
        assert torch.allclose(have, out.logits[0][:, 3:6], atol=1e-6)
        batch = {"input_ids": asked, "target_mask": torch.tensor([[True] * 4 + [False]])}
        loss = Objective(module, "tokens")(**batch)["loss"]
        want = torch.nn.functional.cross_entropy(out.logits[0, :-1], asked[0, 1:])
    assert float(loss) == pytest.approx(float(want), abs=1e-4)


def test_without_a_compiler_layers_stay_as_they_are(build_model, monkeypatch):
    module = build_model("llama").module
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "")
    assert "no C++ compiler" in compile_layers(module)
    assert "forward" not in vars(module.model.layers[0])
