"""One folder is all that a machine without a network needs."""

from __future__ import annotations

import json
import shutil
import socket

import pytest
from conftest import build_module
from peft import LoraConfig, get_peft_model
from typer.testing import CliRunner

import nomina
from nomina.cli import app
from nomina.errors import ModelError
from nomina.models import LanguageModel, ModelConfig, load_model, write_config
from nomina.packing import pack_model

TEXT = "did george clooney make a musical in the 1980s"
LABELS = ["actor", "year"]


def found(folder):
    tagger = nomina.load(folder, dtype="float32")
    return [e.to_dict() for e in tagger(TEXT, LABELS)]


@pytest.fixture
def base(tmp_path, byte_tokenizer):
    LanguageModel(build_module("llama"), byte_tokenizer).save(tmp_path / "base-model")
    return tmp_path / "base-model"


def adapt(base, folder, **options):
    module = get_peft_model(
        build_module("llama"),
        LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, **options),
    )
    module.save_pretrained(folder)
    write_config(folder, ModelConfig(base=str(base), max_words=30))
    return folder


@pytest.fixture
def no_network(monkeypatch):
    """Let any look-up of a host and any connection fail, and switch our own offline mode on."""
    from huggingface_hub import constants

    calls = []

    def refuse(*arguments, **_):
        calls.append(arguments)
        raise OSError("no network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE")  # conftest's: ours alone must do
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NOMINA_OFFLINE", "1")
    return calls


def test_a_packed_model_works_anywhere_without_network(base, tmp_path, no_network):
    names = [adapt(base, tmp_path / "a"), adapt(base, tmp_path / "b", use_rslora=True), base]
    want = [found(name) for name in names]
    assert any(want)
    moved = tmp_path / "another machine"
    for name in names:
        pack_model(str(name), tmp_path / "packed" / name.name)
    (tmp_path / "packed").rename(moved)
    for name in names:
        shutil.rmtree(name)
    assert ModelConfig.read(moved / "a") == ModelConfig(base="base", max_words=30)
    assert [found(moved / name.name) for name in names] == want
    assert no_network == []


def test_a_hub_id_is_not_looked_up(no_network):
    with pytest.raises(ModelError, match="may not be used"):
        load_model("nobody/has-this-model")
    assert no_network == []


def test_how_to_talk_to_it_survives_a_new_name(base, tmp_path):
    (base / "nomina.json").unlink()
    base.rename(tmp_path / "GNER-LLaMA")
    packed = pack_model(str(tmp_path / "GNER-LLaMA"), tmp_path / "x")
    assert load_model(packed).config.format == "gner"
    assert load_model(packed).config.template == "inst"


def test_what_is_not_needed_is_left_and_what_is_missing_named(base, tmp_path):
    (base / "optimizer.pt").write_bytes(b"x")
    (base / "pytorch_model.bin").write_bytes(b"x")
    packed = pack_model(str(base), tmp_path / "x")
    assert {p.name for p in packed.iterdir()} & {"optimizer.pt", "pytorch_model.bin"} == set()
    index = {"weight_map": {"a": "model-00002-of-00002.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="lacks model-00002"):
        pack_model(str(base), tmp_path / "y")
    assert not (tmp_path / "y").exists()
    with pytest.raises(ModelError, match="exists already"):
        pack_model(str(base), packed)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="not a model"):
        pack_model(str(tmp_path / "empty"), tmp_path / "z")


def test_the_command_packs(base, tmp_path):
    target = tmp_path / "packed"
    result = CliRunner().invoke(app, ["models", "fetch", str(base), "--to", str(target)])
    assert result.exit_code == 0, result.output
    assert f"ready: {target}" in result.stdout
    assert found(target) == found(base)
    result = CliRunner().invoke(app, ["models", "fetch", "./nowhere", "--to", str(target)])
    assert result.exit_code == 1
    assert "there is no model" in result.stderr
    result = CliRunner().invoke(app, ["models", "fetch", str(base)])
    assert f"ready: {base}" in result.stdout
