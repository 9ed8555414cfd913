"""A model card says what is known, and that the rest is not."""

from __future__ import annotations

from nomina.model_cards import Card, CardData


def card(**changes):
    values = {
        "name": "mine",
        "origin": "default",
        "base": "gemma-3-270m",
        "method": "lora",
        "format": "inline",
        "data": [CardData("contracts.jsonl", "", 90), CardData("wnut17", "CC BY 4.0", 10)],
        "recipe": {"steps": 110},
        "labels": ["party", "date"],
        "figures": {"strict F1 on dev": "71.2"},
        "notes": ["3 texts are longer"],
        "date": 1_700_000_000.0,
    }
    return Card(**{**values, **changes}).render()


def test_everything_known_is_said():
    text = card()
    for part in (
        "A LoRA adapter",
        "2023-11-14",
        "from `default` (base: gemma-3-270m)",
        "party, date",
        "| wnut17 | 10 | CC BY 4.0 |",
        "| steps | 110 |",
        "| strict F1 on dev | 71.2 |",
        "- 3 texts are longer",
        "Intended use",
        "Gemma Terms of Use",
    ):
        assert part in text
    assert text.startswith("---\nlibrary_name: nomina\nbase_model: gemma-3-270m\n")


def test_what_is_not_known_is_said_too():
    text = card(origin="/models/t5", base="/models/t5", figures={}, data=[], method="full")
    assert "Nothing was measured" in text
    assert "Gemma" not in text
    assert "A full model" in text
    assert "not known to nomina" in card()
