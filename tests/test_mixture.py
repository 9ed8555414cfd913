"""Questions: never a wrong negative, every kind of text, the same draw for the same seed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from nomina.entities import Entity, Example, LabelSet
from nomina.errors import DataError, RecipeError
from nomina.mixture import Card, Cards, Mixture, MixtureConfig
from nomina.recipes import Recipe

CARDS = [
    ["person", "a human being", ["individual", "human"], "none"],
    ["politician", "a person in politics", ["statesman"], "person"],
    ["city", "a large town", ["town"], "location"],
    ["location", "a place", ["place"], "none"],
    ["gene", "a unit of heredity", ["genetic locus"], "none"],
    ["year", "a calendar year", ["calendar year"], "date"],
]
ROWS = [
    Example.from_tags(
        "Mayor Anna Berg left Oslo in 1990 .".split(),
        ["O", "B-politician", "I-politician", "O", "B-city", "O", "B-year", "O"],
    ),
    Example.from_tags("Nothing to see , really .".split(), ["O"] * 6),
    Example.from_tags("BRCA1 ( BRCA2 ) matters .".split(), ["B-gene", "O", "B-gene", *"OOO"]),
]


@pytest.fixture
def cards(tmp_path):
    path = tmp_path / "cards.jsonl"
    path.write_text("".join(json.dumps(card) + "\n" for card in CARDS))
    return Cards.read(path)


def draw(cards, count=300, seed=0, config=None, labels=None):
    mixture = Mixture({"mine": ROWS}, labels or {}, cards, config or MixtureConfig())
    return list(itertools.islice(mixture.questions(seed), count))


def test_the_same_seed_asks_the_same(cards):
    assert draw(cards, seed=4) == draw(cards, seed=4)
    assert draw(cards, seed=4) != draw(cards, seed=5)


def test_the_order_does_not_follow_from_where_a_corpus_lies(cards):
    here, there = (
        itertools.islice(Mixture({name: ROWS, "other": ROWS[:2]}, {}, cards).questions(0), 50)
        for name in ("data/mine.jsonl", "/elsewhere/mine.jsonl")
    )
    assert [q.example for q in here] == [q.example for q in there]


def test_gold_labels_are_asked_for_and_surfaces_survive(cards):
    config = MixtureConfig(p_lower=0, p_typos=0, p_merge=0)
    for question in draw(cards, config=config):
        names = set(question.labels.names)
        for entity in question.example.entities():
            assert entity.label in names
            assert entity.text.replace(" ", "") in {"AnnaBerg", "Oslo", "1990", "BRCA1", "BRCA2"}


def test_a_kind_is_never_absent_where_its_finer_kind_is_annotated(cards):
    config = MixtureConfig(p_broader=0, p_rename=0, p_symbol=0, p_drop_present=0, p_general=0)
    for question in draw(cards, config=config):
        present = {span.label for span in question.example.spans}
        absent = set(question.labels.names) - present
        if "politician" in present:
            assert "person" not in absent
        if "city" in present:
            assert "location" not in absent


def test_siblings_of_a_type_are_asked_for_beside_it(cards):
    other = Example.from_tags(["in", "Lom", "now"], ["O", "B-village", "O"])
    village = Card("village", "a small town", ("hamlet",), "location")
    known = Cards({**{name: cards.get(name) for name in cards.names()}, "village": village})
    shares = []
    for p_sibling in (0.0, 1.0):
        config = MixtureConfig(
            p_sibling=p_sibling, p_rename=0, p_broader=0, p_general=0, p_symbol=0, p_merge=0
        )
        mixture = Mixture({"mine": [ROWS[0], *[ROWS[2]] * 20, other]}, {}, known, config)
        asked = [
            set(question.labels.names)
            for question in itertools.islice(mixture.questions(0), 1500)
            if "Oslo" in question.example.text
        ]
        shares.append(sum("village" in names for names in asked) / len(asked))
        assert not any("location" in names for names in asked)
    assert shares[1] > shares[0] + 0.2, shares


def test_a_rare_sibling_is_asked_for_beside_a_frequent_one(cards):
    kinds = {x: Card(x, "a work", (), "work of art") for x in ("book", "film", "poem")}
    rows = [
        Example.from_tags(["Emma"], [f"B-{x}"]) for x in ["book"] * 50 + ["film"] * 49 + ["poem"]
    ]
    config = MixtureConfig(p_sibling=1, max_absent=1, p_general=0, p_merge=0)
    mixture = Mixture({"mine": rows}, {}, Cards(kinds), config)
    asked = [q.labels.names for q in itertools.islice(mixture.questions(0), 2000)]
    beside = [names for names in asked if "book" in names and len(names) > 1]
    share = sum("poem" in names for names in beside) / len(beside)
    assert share > 0.08, share  # 2 % of what is not a book


def test_a_passage_with_a_label_set_is_asked_for_all_of_it(cards):
    words, tags = ["Ann", "met", "Bo"], ["B-author", "O", "B-person"]
    for definition in ("", "who writes"):
        own = LabelSet.of({"author": definition, "person": "", "year": ""})
        row = Example.from_tags(words, tags, labels=own)
        config = MixtureConfig(p_rename=0, p_symbol=0, p_define=0, p_lower=0, p_typos=0)
        mixture = Mixture({"mine": [row]}, {}, cards, config)
        questions = list(itertools.islice(mixture.questions(0), 100))
        assert all(set(q.labels.names) == {"author", "person", "year"} for q in questions)
        assert all(len(q.example.spans) == 2 for q in questions)
        assert any(q.definitions for q in questions) == bool(definition)


def test_text_as_people_write_it_stays_as_it_is(cards):
    text = "sshd[2211]: Failed  for\nroot"
    row = Example.from_entities(text, [Entity("2211", "process id", 5, 9)])
    mixture = Mixture({"log": [row]}, {}, cards, MixtureConfig(p_natural=1, p_lower=0, p_typos=0))
    for question in itertools.islice(mixture.questions(0), 20):
        assert question.example.text == text


def test_a_corpus_with_a_label_set_is_asked_for_its_own_labels(cards):
    labels = {"mine": LabelSet.of(["politician", "city", "year", "gene", "film"])}
    config = MixtureConfig(p_foreign=0, p_rename=0, p_broader=0, p_symbol=0)
    for question in draw(cards, config=config, labels=labels):
        assert set(question.labels.names) <= set(labels["mine"].names)


def test_every_way_of_asking_occurs(cards):
    labels = {"mine": LabelSet.of(["politician", "city", "year", "gene"])}
    questions = draw(cards, 600, config=MixtureConfig(p_symbol=0.1), labels=labels)
    names = {name for question in questions for name in question.labels.names}
    assert {"statesman", "town", "person", "type A"} <= names
    texts = {question.example.text for question in questions}
    assert "Mayor Anna Berg left Oslo in 1990." in texts
    assert "mayor anna berg left oslo in 1990" in texts
    assert any(question.demonstrations for question in questions)
    assert any(label.definition for question in questions for label in question.labels)


def test_phrases_stand_in_place_of_names(cards):
    config = MixtureConfig(p_define=1, p_symbol=0, p_phrase=1, p_lower=0, p_typos=0, p_rename=0)
    asked = set()
    for question in draw(cards, config=config):
        names = set(question.labels.names)
        assert {span.label for span in question.example.spans} <= names
        asked |= names
    assert {"a person in politics", "a large town"} <= asked
    assert {"politician", "city"} <= asked  # half of the questions keep half of the names


def test_long_passages_are_cut_outside_entities(cards):
    row = Example.from_tags(["w"] * 20, ["O"] * 9 + ["B-gene", "I-gene"] + ["O"] * 9)
    mixture = Mixture({"long": [row]}, {}, cards, MixtureConfig(max_words=10, p_merge=0))
    for question in itertools.islice(mixture.questions(0), 20):
        assert len(question.example.words) <= 10


def test_shares_and_probabilities_are_checked(cards):
    with pytest.raises(RecipeError, match="unknown corpora"):
        Mixture({"mine": ROWS}, {}, cards, MixtureConfig(shares={"other": 0.5}))
    with pytest.raises(RecipeError, match="p_lower"):
        MixtureConfig(p_lower=2)
    with pytest.raises(RecipeError, match="at least one corpus"):
        Mixture({}, {})
    with pytest.raises(RecipeError, match="one of the shares must be above 0"):
        Mixture({"mine": ROWS}, {}, cards, MixtureConfig(shares={"mine": 0.0}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": "x"}, "temperature must be a number, was: 'x'"),
        ({"temperature": float("nan")}, "temperature must be a number, was: nan"),
        ({"max_all_labels": "x"}, "max_all_labels must be a whole number, was: 'x'"),
        ({"max_words": 50.0}, r"max_words must be a whole number, was: 50\.0"),
        ({"p_define": True}, "p_define must be a number, was: True"),
        ({"shares": 3}, "shares must be a table of numbers, was: 3"),
        ({"shares": {"mine": "x"}}, "the share of 'mine' must be a number, was: 'x'"),
    ],
)
def test_settings_are_of_the_right_type(settings, message):
    with pytest.raises(RecipeError, match=message):
        MixtureConfig(**settings)


def test_shares_leave_something_for_every_corpus(cards):
    both = {"mine": ROWS, "other": ROWS}
    with pytest.raises(RecipeError, match=r"add up to 1\.0000, so .* never be asked: \['other'\]"):
        Mixture(both, {}, cards, MixtureConfig(shares={"mine": 1.0}))
    with pytest.raises(RecipeError, match="0 or more"):
        Mixture(both, {}, cards, MixtureConfig(shares={"mine": -0.5}))
    Mixture(both, {}, cards, MixtureConfig(shares={"mine": 0.9}))


def test_the_shipped_recipe_asks_of_every_corpus():
    made = Recipe.read(Path(__file__).parents[1] / "recipes" / "default.toml")
    assert 0.9 < sum(made.mixture["shares"].values()) < 1


def test_no_absent_type_is_asked_for_if_none_may_be(cards):
    config = MixtureConfig(max_absent=0, p_foreign=0, p_sibling=0, p_general=0, p_all_labels=0)
    assert draw(cards, 50, config=config)


def test_lower_case_and_typos_keep_the_gaps_of_the_text(cards):
    text = "Acme GmbH (Oslo) paid. 東京です。寒い。"
    row = Example.from_entities(text, [Entity("Oslo", "city", 11, 15)])
    config = MixtureConfig(p_natural=1, p_lower=1, p_typos=0, p_merge=0)
    seen = set()
    for question in itertools.islice(Mixture({"x": [row]}, {}, cards, config).questions(0), 40):
        found = question.example
        seen.add(found.text)
        assert [found.text[e.start : e.end] for e in found.entities()] in ([], ["oslo"])
    assert seen == {text.lower(), "acme gmbh oslo paid 東京です 寒い"}


def test_a_malformed_card_is_named(tmp_path):
    path = tmp_path / "cards.jsonl"
    path.write_text('["a", "b", [], "none"]\n["a"]\n')
    with pytest.raises(DataError, match=r"cards.jsonl:2"):
        Cards.read(path)
