"""Adapters are averaged and widened without a change that was not asked for."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")

import sys

import adapters
import torch
from safetensors.torch import load_file, save_file


def build(folder, rank, seed):
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir()
    weights = {
        "q.lora_A.weight": torch.randn(rank, 12, generator=generator),
        "q.lora_B.weight": torch.randn(8, rank, generator=generator),
    }
    save_file(weights, folder / "adapter_model.safetensors")
    settings = {"r": rank, "lora_alpha": rank, "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "calibration.json").write_text("{}")
    return weights


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["adapters.py", *map(str, arguments)])
    return adapters.main()


def read(folder):
    return load_file(folder / "adapter_model.safetensors")


def test_a_wider_adapter_computes_the_same(tmp_path, monkeypatch):
    before = build(tmp_path / "a", 4, 0)
    assert run(monkeypatch, "widen", tmp_path / "b", tmp_path / "a", "--rank", 10) == 0
    after = read(tmp_path / "b")
    assert after["q.lora_A.weight"].shape == (10, 12)
    assert after["q.lora_A.weight"][4:].abs().min() > 0
    torch.testing.assert_close(
        after["q.lora_B.weight"] @ after["q.lora_A.weight"],
        before["q.lora_B.weight"] @ before["q.lora_A.weight"],
    )
    settings = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert settings == {"r": 10, "lora_alpha": 10, "peft_type": "LORA"}
    assert not (tmp_path / "b" / "calibration.json").exists()


def test_the_mean_is_weighted(tmp_path, monkeypatch):
    parts = [build(tmp_path / name, 4, seed) for seed, name in enumerate("ab")]
    given = [f"{tmp_path / 'a'}:0.25", f"{tmp_path / 'b'}:0.75"]
    assert run(monkeypatch, "average", tmp_path / "c", *given) == 0
    for name, tensor in read(tmp_path / "c").items():
        torch.testing.assert_close(tensor, 0.25 * parts[0][name] + 0.75 * parts[1][name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["average", "OUT", "a:0.5", "b:0.6"], "add up to 1"),
        (["average", "OUT", "a:0.5", "wide:0.5"], "not of one shape"),
        (["average", "a", "a:1.0"], "exists already"),
        (["average", "OUT", "nowhere:1.0"], "nowhere"),
        (["widen", "OUT", "a", "--rank", "4"], "above the adapter's"),
        (["widen", "OUT", "scaled", "--rank", "9"], "lora_alpha must be the rank"),
    ],
)
def test_what_cannot_be_done_leaves_nothing(tmp_path, monkeypatch, capsys, arguments, message):
    for seed, (name, rank) in enumerate({"a": 4, "b": 4, "wide": 6, "scaled": 4}.items()):
        build(tmp_path / name, rank, seed)
    settings = tmp_path / "scaled" / "adapter_config.json"
    settings.write_text(settings.read_text().replace('"lora_alpha": 4', '"lora_alpha": 8'))
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "OUT").exists()
