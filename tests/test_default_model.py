"""The model that ships: complete, small, and as good as the demo says."""

from __future__ import annotations

import pytest

import nomina
from nomina.base import is_prepared
from nomina.commands.extract import DEMO
from nomina.engine import Usage
from nomina.models import ModelConfig, model_folder


def test_the_adapter_ships_with_its_card():
    folder = model_folder("default")
    config = ModelConfig.read(folder)
    assert config is not None
    assert config.base == "gemma-3-270m"
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size < 40_000_000
    assert "Gemma Terms of Use" in (folder / "README.md").read_text()
    assert not list(folder.glob("*.bin"))


@pytest.fixture(scope="module")
def default():
    if not is_prepared():
        pytest.skip("the base model is not prepared here: make demo")
    return nomina.load()


@pytest.mark.slow
def test_the_demo_finds_what_a_person_would(default):
    want = [
        {("Siemens", "company"), ("Roland Busch", "person"), ("Munich", "city")},
        {("3 March 2024", "date"), ("Norway", "governing law")},
        {("melanoma", "disease"), ("vemurafenib", "drug")},
    ]
    for (_, text, labels), some in zip(DEMO, want, strict=True):
        have = {(entity.text, entity.label) for entity in default(text, labels)}
        assert len({t for t, _ in some} & {t for t, _ in have}) >= len(some) - 1
        assert all(text[e.start : e.end] == e.text for e in default(text, labels))


@pytest.mark.slow
def test_its_heads_save_readings(default):
    model, reads = default.model, {}
    heads = model.heads
    assert heads is not None
    for model.heads in (None, heads):
        default.engine.usage = usage = Usage()
        for _, text, labels in DEMO:
            default(text, labels)
        reads[model.heads is heads] = usage.reads
    assert reads[True] < 0.8 * reads[False]
