"""Models load from folders of every kind, say what is wrong with them, and run no foreign code."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch
from conftest import build_module
from peft import LoraConfig, PeftModel, get_peft_model

import nomina
from nomina.errors import FormatError, ModelError
from nomina.models import LanguageModel, ModelConfig, load_model, write_config


@pytest.fixture
def folder(tmp_path, byte_tokenizer):
    model = LanguageModel(build_module("llama"), byte_tokenizer, ModelConfig(format="inline"))
    model.save(tmp_path / "full")
    return tmp_path / "full"


@pytest.fixture
def adapter(folder, tmp_path, byte_tokenizer):
    module = get_peft_model(
        build_module("llama"), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    module.save_pretrained(tmp_path / "adapter")
    write_config(tmp_path / "adapter", ModelConfig(base=str(folder)))
    return tmp_path / "adapter"


def test_what_is_saved_has_the_rights_of_new_files(folder, tmp_path):
    (tmp_path / "new").touch()
    usual = (tmp_path / "new").stat().st_mode
    assert {path.stat().st_mode for path in folder.iterdir()} == {usual}


def test_a_full_model_loads_and_tags(folder):
    tagger = nomina.load(folder, dtype="float32")
    assert tagger.model.config.format == "inline"
    assert tagger("did george act", ["actor"]).text == "did george act"
    assert nomina.load(folder, format="gner").model.format.name == "gner"


def test_an_adapter_is_merged_into_its_base(adapter, folder):
    base = load_model(folder, torch.float32)
    tuned = load_model(adapter, torch.float32)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(base.module.state_dict()[name], tuned.module.state_dict()[name])
    want = PeftModel.from_pretrained(base.module, adapter).merge_and_unload().state_dict()
    have = tuned.module.state_dict()
    assert all(torch.allclose(want[key], have[key], atol=1e-6) for key in want)
    assert not any("lora" in key for key in tuned.module.state_dict())


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "init_lora_weights": "pissa"},
        {"target_modules": ["q_proj", "lm_head"]},
    ],
)
def test_adapters_of_every_kind_are_merged_as_peft_does(folder, tmp_path, options):
    base = load_model(folder, torch.float32).module
    config = LoraConfig(r=2, **{"init_lora_weights": False, **options})
    module = get_peft_model(base, config)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if "lora" in name:
                weight.add_(0.5)
    path = tmp_path / "adapter"
    with warnings.catch_warnings(action="ignore"):  # embeddings are saved, too
        module.save_pretrained(path)
    write_config(path, ModelConfig(base=str(folder)))
    ids = torch.tensor([[5, 9, 40]])
    fresh = load_model(folder, torch.float32).module
    want = PeftModel.from_pretrained(fresh, path)(ids).logits
    have = load_model(path, torch.float32).module(ids).logits
    assert torch.allclose(want, have, atol=1e-4)


def test_gner_is_a_word_of_the_name(folder, tmp_path):
    names = {"gner/wagner": "inline", "GNER-llama": "gner", "my_gner2": "gner"}
    for name, form in {**names, "models--x--GNER/snapshots/0a": "gner"}.items():
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        (copy / "nomina.json").unlink()
        assert load_model(copy, torch.float32).config.format == form


def test_a_t5_model_loads(tmp_path, unigram_tokenizer):
    module = build_module("t5", max(400, len(unigram_tokenizer)))
    LanguageModel(module, unigram_tokenizer).save(tmp_path / "GNER-T5-tiny")
    (tmp_path / "GNER-T5-tiny" / "nomina.json").unlink(missing_ok=True)
    model = load_model(tmp_path / "GNER-T5-tiny", torch.float32)
    assert model.is_encoder_decoder
    assert (model.config.format, model.config.template) == ("gner", "plain")


def test_published_llama_checkpoints_get_their_wrapper(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "GNER-LLaMA")
    (tmp_path / "GNER-LLaMA" / "nomina.json").unlink(missing_ok=True)
    model = load_model(tmp_path / "GNER-LLaMA", torch.float32)
    assert (model.config.format, model.config.template) == ("gner", "inst")


def test_a_truncated_file_is_one_sentence(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="incomplete"):
        load_model(folder)


def test_pickles_are_not_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(folder)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "nowhere"])
def test_a_missing_model_is_named(name):
    with pytest.raises(ModelError, match="there is no model"):
        load_model(name)


@pytest.mark.parametrize("name", ["NOMINA_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_a_hub_id_without_network_says_so(monkeypatch, name):
    for other in ("NOMINA_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "yes")
    with pytest.raises(ModelError, match=rf"{name}.* is set.*nobody/has-this-model --to"):
        load_model("nobody/has-this-model")


def test_the_environment_names_the_default_model(folder, monkeypatch):
    monkeypatch.setenv("NOMINA_MODEL", str(folder))
    assert nomina.load().model.folder == folder


def test_an_empty_folder_and_a_bad_config_are_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="not a model"):
        load_model(tmp_path / "empty")
    (folder / "nomina.json").write_text(json.dumps({"formt": "inline"}))
    with pytest.raises(ModelError, match="formt"):
        load_model(folder)
    (folder / "nomina.json").write_text(json.dumps({"format": "xml"}))
    with pytest.raises((ModelError, FormatError), match="xml"):
        load_model(folder)


def test_pieces_are_encoded_as_inside_a_text(unigram_tokenizer, byte_tokenizer):
    for tokenizer, family in ((unigram_tokenizer, "t5"), (byte_tokenizer, "llama")):
        module = build_module(family, max(400, len(tokenizer)))
        model = LanguageModel(module, tokenizer)
        whole = tokenizer.encode("did george act", add_special_tokens=False)
        pieces = [model.encode_piece(piece) for piece in ("did", " george", " act")]
        assert [token for piece in pieces for token in piece][-4:] == whole[-4:]
