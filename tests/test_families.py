"""Families of models: read exactly as the family's own code reads, or refused by name."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("torch")

import mmap

import torch
import transformers as hf
from conftest import TEXT

from nomina import families
from nomina.beams import BeamEngine
from nomina.engine import Engine, EngineConfig, Request
from nomina.entities import LabelSet, split_words
from nomina.errors import ModelError
from nomina.extractor import Tagger
from nomina.formats import Sentence
from nomina.grounding import Grounding
from nomina.models import LanguageModel, ModelConfig

IDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
SMALL = {
    "vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096, **IDS,
}  # fmt: skip
KINDS = ["sliding_attention", "full_attention"]
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 8, "num_key_value_heads": 4,
}  # fmt: skip
T5 = {
    "vocab_size": 400, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
    "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
BART = {
    "vocab_size": 400, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, **IDS,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "decoder_start_token_id": 1,
}  # fmt: skip

EXACT = {
    "Gemma2": {  # capped scores and logits
        "head_dim": 16, "sliding_window": 9, "layer_types": KINDS, "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 16,
    },
    "GptOss": {  # sinks
        "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 9,
        "layer_types": KINDS,
    },
    "DeepseekV3": {  # values narrower than keys
        **LATENT, **EXPERTS, "n_routed_experts": 4, "first_k_dense_replace": 1, "n_group": 1,
        "topk_group": 1,
    },
    "Phimoe": {"num_local_experts": 4, "sliding_window": 9},  # does not pass its window on
    "Granite": {"logits_scaling": 8.0, "attention_multiplier": 0.2, "embedding_multiplier": 3.0},
    "Cohere2": {"sliding_window": 9, "layer_types": KINDS, "logit_scale": 0.25},
    "Qwen3": {"head_dim": 16},
    "Phi3": {"sliding_window": 9},
    "OPT": {  # layers lie deeper
        "ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False,
    },
}  # fmt: skip
REFUSED = {
    "Lfm2": {"layer_types": ["conv", "full_attention"]},
    "Llama4Text": {
        "head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 4,
        "no_rope_layers": [1, 0], "layer_types": ["chunked_attention", "full_attention"],
    },
    "FalconH1": {
        "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8,
        "mamba_n_groups": 1,
    },
    "Jamba": {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1},
    "GPTNeoX": {},
    "XGLM": {
        "d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4,
    },
    "DiffLlama": {},
    "Doge": {},
}  # fmt: skip


def make(name, settings, scale=0.3):
    model_name = {"Llama4Text": "Llama4"}.get(name, name)
    if not hasattr(hf, f"{name}Config"):
        pytest.skip(f"this transformers has no {name}")
    torch.manual_seed(0)
    kind = "ForConditionalGeneration" if "d_ff" in settings else "ForCausalLM"
    module = getattr(hf, f"{model_name}{kind}")(getattr(hf, f"{name}Config")(**settings))
    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.data.normal_(0, scale)
    module.tie_weights()
    module.set_attn_implementation("eager")  # older versions drop caps in the others
    return module.eval()


def requests_of(model):
    rng, found = random.Random(0), []
    labels = LabelSet.of(["actor", "year", "genre of the film"])
    for length in (7, 1, 12, 4):
        text = " ".join(rng.choices(TEXT.split(), k=length))
        sentence = Sentence.of(text, split_words(text))
        prompt = model.format.prompt(sentence, labels)
        grounding = Grounding(model.format, sentence, labels.names, model.lexicon)
        prefix, rest = model.prefix_ids(prompt), model.sentence_ids(prompt)
        found.append(Request(tuple(prefix), tuple(rest), grounding))
    return found


@torch.inference_mode()
def worst(module, request, path):
    """How far the scores of a path are from the module's own, and its choices from the best."""
    fork = request.grounding.start()
    prompt = [*request.prefix_ids, *request.sentence_ids]
    ids, at = list(fork.forced), []
    for fork, choice, _ in path:
        at.append(len(ids))
        ids += [fork.allowed[choice], *fork.take(choice).forced]
    if module.config.is_encoder_decoder:
        start = module.config.decoder_start_token_id
        given = {"decoder_input_ids": torch.tensor([[start, *ids]])}
        logits = module(input_ids=torch.tensor([prompt]), **given).logits[0]
    else:
        logits = module(input_ids=torch.tensor([prompt + ids]), use_cache=False).logits[0]
        logits = logits[len(prompt) - 1 :]
    found = 0.0
    for (fork, choice, log_prob), place in zip(path, at, strict=True):
        own = torch.log_softmax(logits[place, list(fork.allowed)].float(), -1)
        found = max(found, abs(float(own[choice]) - log_prob), float(own.max() - own[choice]))
    return found


@pytest.mark.parametrize("form", ["inline", "gner"])
@pytest.mark.parametrize("name", EXACT)
def test_drafts_are_scored_as_the_family_scores_them(name, form, byte_tokenizer):
    module = make(name, SMALL | EXACT[name])
    model = LanguageModel(module, byte_tokenizer, ModelConfig(format=form))
    requests = requests_of(model)
    for engine in (
        Engine(model),
        Engine(model, EngineConfig(max_pass_tokens=60, max_rows=2, pass_tokens=0)),
        BeamEngine(model, num_beams=1),
    ):
        for request, path in zip(requests, engine.decode(requests), strict=True):
            assert worst(module, request, path) < 1e-4


@pytest.mark.parametrize(
    "settings", [{"num_decoder_layers": 3}, {"decoder_start_token_id": 5}], ids=["deeper", "start"]
)
def test_decoders_of_t5_have_their_own_depth_and_start(settings, unigram_tokenizer):
    module = make("T5", T5 | {"decoder_start_token_id": 0} | settings)
    model = LanguageModel(module, unigram_tokenizer, ModelConfig(format="gner"))
    requests = requests_of(model)
    for request, path in zip(requests, Engine(model).decode(requests), strict=True):
        assert worst(module, request, path) < 1e-4
    assert model.start_id == module.config.decoder_start_token_id


@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_exactly_is_refused(name, num_beams, byte_tokenizer):
    sizes = IDS | {"vocab_size": 400} if "d_model" in REFUSED[name] else SMALL
    module = make(name, sizes | REFUSED[name])
    with pytest.raises(ModelError, match="cannot be read exactly"):
        Tagger(LanguageModel(module, byte_tokenizer), num_beams=num_beams)("in Paris", ["city"])


def test_encoders_of_other_families_are_refused(byte_tokenizer):
    bart = hf.BartForConditionalGeneration(hf.BartConfig(**BART))
    with pytest.raises(ModelError, match="'bart' cannot be read exactly"):
        LanguageModel(bart, byte_tokenizer)
    switch = hf.SwitchTransformersConfig(**T5, num_experts=2, num_sparse_decoder_layers=1)
    switch.decoder_start_token_id = 0
    with pytest.raises(ModelError, match="go to one expert"):
        LanguageModel(hf.SwitchTransformersForConditionalGeneration(switch), byte_tokenizer)


def test_positions_that_long_rows_would_stretch_are_refused(byte_tokenizer):
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    settings = SMALL | {"max_position_embeddings": 64}
    config = hf.LlamaConfig(**settings)
    config.rope_parameters = rope
    module = hf.LlamaForCausalLM(config).eval()
    tagger = Tagger(LanguageModel(module, byte_tokenizer))
    with pytest.raises(ModelError, match="over 64 tokens"):
        tagger("the actor met in Paris", [f"label of the number {i}" for i in range(20)])


def test_settings_of_models_of_several_senses_are_those_of_their_text(byte_tokenizer):
    if not hasattr(hf, "Gemma3ForConditionalGeneration"):
        pytest.skip("this transformers has no Gemma 3 with pictures")
    text = SMALL | {"head_dim": 16, "sliding_window": 9, "layer_types": KINDS}
    text |= {"final_logit_softcapping": 3.0}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = hf.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=395, **IDS
    )
    torch.manual_seed(0)
    module = hf.Gemma3ForConditionalGeneration(config).eval()
    model = LanguageModel(module, byte_tokenizer)
    from nomina.families import head_of
    from nomina.objective import packed_mask

    assert head_of(module, torch.zeros(1, 32))[2] == 3.0
    ones = torch.ones(1, 12, dtype=torch.long)
    masks = packed_mask(config, ones, torch.arange(12).unsqueeze(0), torch.float32)
    assert (masks["sliding_attention"][0, 0, -1] == 0).sum() == 9
    requests = requests_of(model)
    assert len(list(Engine(model).decode(requests))) == len(requests)


def test_a_reading_that_ran_out_of_memory_is_not_the_last(build_model, monkeypatch):
    tagger = Tagger(build_model("gemma3", max_words=20))
    many = [f"label number {i}" for i in range(30)]
    tagger("short", ["actor"])
    want = Tagger(build_model("gemma3", max_words=20))("george clooney", many)
    original, calls = mmap.mmap, []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(12, "Cannot allocate memory")
        return original(*args, **kwargs)

    monkeypatch.setattr(mmap, "mmap", failing)
    with pytest.raises(MemoryError):
        tagger("george clooney", many)
    monkeypatch.undo()
    assert tagger("george clooney", many) == want


@pytest.mark.parametrize("is_bool", [False, True])
def test_products_are_attention(monkeypatch, is_bool):
    monkeypatch.setattr(families, "favours_products", lambda tensor: True)
    generator = torch.Generator().manual_seed(0)
    query, keys, values = (
        torch.randn(3, 2, *shape, generator=generator).to(torch.bfloat16)
        for shape in ((8, 16), (16, 70), (70, 16))
    )
    keys = keys.transpose(2, 3)  # as the store has them
    seen = torch.rand(3, 1, 8, 70, generator=generator) < 0.6
    mask = seen if is_bool else torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))
    mask = mask if is_bool else mask.to(torch.bfloat16)
    module = torch.nn.Identity()
    by_products = families.attend(module, query, keys, values, mask, 0.3, {})
    called = []
    operator = torch.nn.functional.scaled_dot_product_attention

    def watch(query, keys, *rest, **named):
        called.append(keys.stride(-1))
        return operator(query, keys, *rest, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watch)
    for limit in ("_MOST_SCORES", "_MOST_KEYS"):
        with monkeypatch.context() as patch:
            patch.setattr(families, limit, 0)  # so many are left to torch's operator
            by_operator = families.attend(module, query, keys, values, mask, 0.3, {})
        torch.testing.assert_close(by_products, by_operator, rtol=0.02, atol=0.02)
    assert called == [1, 1]  # keys that lie otherwise would have it hold all scores
