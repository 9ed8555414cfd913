"""The model that ships: complete, small, and as good as the demo says."""

from __future__ import annotations

import pytest

import nomina
from nomina.base import is_prepared
from nomina.commands.extract import DEMO
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


@pytest.mark.slow
@pytest.mark.skipif(not is_prepared(), reason="the base model is not prepared here: make demo")
def test_the_demo_finds_what_a_person_would():
    tagger = nomina.load()
    want = [
        {("Siemens", "company"), ("Roland Busch", "person"), ("Munich", "city")},
        {("3 March 2024", "date"), ("Norway", "governing law")},
        {("melanoma", "disease"), ("vemurafenib", "drug")},
    ]
    for (_, text, labels), some in zip(DEMO, want, strict=True):
        have = {(entity.text, entity.label) for entity in tagger(text, labels)}
        assert len({t for t, _ in some} & {t for t, _ in have}) >= len(some) - 1
        assert all(text[e.start : e.end] == e.text for e in tagger(text, labels))
