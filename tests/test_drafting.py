"""Drafts follow a writer that mostly copies the text, through its slips, in few readings."""

from __future__ import annotations

import random

import pytest

from nomina.drafting import DraftConfig, Drafter
from nomina.entities import split_words
from nomina.formats import Sentence, get_format
from nomina.grounding import Grounding, Lexicon

LABELS = ("actor", "actor name", "year")
TEXT = "did george clooney make a musical in the 1980s with the director of the film Paris , Texas"


def encode(text):
    """A token a character, but for white space before it: enough for walks to fork inside words."""
    return [ord(char) for char in text]


def grounding(form="gner", text=TEXT):
    sentence = Sentence.of(text, split_words(text))
    return Grounding(get_format(form), sentence, LABELS, Lexicon(encode, 3))


def count_readings(drafter, written):
    """Let a writer who knows what it writes check drafts, as a model would; return readings."""
    at = readings = 0
    while at < len(written):
        draft = drafter.draft(len(written) - at - 1)
        right = 0
        while right < len(draft) and draft[right] == written[at + right]:
            right += 1
        ids = written[at : at + right + 1]
        drafter.write(ids, right == len(draft))
        at += len(ids)
        readings += 1
        assert readings <= len(written)
    return readings


def write(text):
    return [*encode(text), 3]


NEGATIVE = " ".join(f"{word}(O)" for word in TEXT.split())


def test_a_text_without_entities_takes_one_reading():
    assert count_readings(Drafter(grounding(), [], DraftConfig(10_000, 0.0)), write(NEGATIVE)) == 1


@pytest.mark.parametrize(
    ("old", "new", "most"),
    [
        ("clooney(O)", "clooney(B-actor)", 3),  # an entity
        ("clooney(O)", "clooney(B-person)", 12),  # a label of its own
        ("clooney(O)", "clonney(O)", 5),  # misspelt
        ("a(O) musical(O) ", "", 5),  # left out
        ("a(O) musical(O)", "a(O) musical(O) a(O) musical(O)", 6),  # written twice
        ("director(O)", "director", 5),  # a tag left out
    ],
)
def test_slips_cost_a_few_readings_each(old, new, most):
    assert old in NEGATIVE
    written = write(NEGATIVE.replace(old, new))
    assert count_readings(Drafter(grounding(), [], DraftConfig(10_000, 0.0)), written) <= most


def test_loops_are_followed():
    written = write("did(O) " + "george(B-actor) clooney(B-actor) " * 40)
    assert count_readings(Drafter(grounding(), []), written) <= 14


def test_what_stands_in_the_prompt_is_followed():
    prompt = "Please analyze the sentence provided, and say what you think of it. " * 2
    written = write(prompt)
    have = count_readings(Drafter(grounding(), encode(prompt)), written)
    assert have < 10 < count_readings(Drafter(grounding(), []), written)


@pytest.mark.parametrize("form", ["gner", "inline"])
def test_any_completion_can_be_followed(form):
    rng = random.Random(5)
    characters = sorted(set(encode(NEGATIVE + "[]()東é")))
    for _ in range(30):
        drafter = Drafter(grounding(form), rng.choices(characters, k=rng.randint(0, 9)))
        written = rng.choices(characters[: rng.randint(1, 40)], k=rng.randint(1, 80))
        count_readings(drafter, written)


def test_a_draft_is_never_longer_than_asked():
    drafter = Drafter(grounding(), encode("did"), DraftConfig(100, 0.0))
    assert [len(drafter.draft(limit)) for limit in (0, 1, 5, 10_000)] == [0, 1, 5, 100]
    assert drafter.expected_length() == len(write(NEGATIVE))


def test_choices_read_behind_an_earlier_draft_are_used():
    drafter = Drafter(grounding(), [], DraftConfig(10_000, 0.0))
    drafter.draft(10_000)
    at, fork = drafter.open[2]
    tag = next(i for i, token in enumerate(fork.allowed) if chr(token) != "O")
    drafter.learn(fork, tag)
    assert drafter.draft(10_000)[at] == fork.allowed[tag]
