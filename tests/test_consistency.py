"""Mentions of one string agree, nothing overlaps, nothing sure is lost."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomina.consistency import agree
from nomina.entities import Span


@st.composite
def scored(draw):
    words = draw(st.lists(st.sampled_from("abc"), max_size=14))
    cuts = sorted(draw(st.sets(st.integers(0, len(words)))))
    spans = [
        (Span(a, b, draw(st.sampled_from("xyz"))), draw(st.floats(0.01, 1)))
        for a, b in itertools.pairwise(cuts)
        if draw(st.booleans())
    ]
    return words, spans


@given(scored(), st.sampled_from([0.0, 0.3, 1.1]))
def test_labels_agree_and_borders_stay(case, min_share):
    words, found = case
    agreed = agree(words, found, min_share)
    assert all(a.end <= b.start for (a, _), (b, _) in itertools.pairwise(agreed))
    labels = {}
    for span, score in agreed:
        assert 0 <= score <= 1
        assert labels.setdefault(tuple(words[span.start : span.end]), span.label) == span.label
    borders = {(s.start, s.end) for s, _ in agreed}
    assert {(s.start, s.end) for s, _ in found} <= borders
    if min_share > 1:
        assert len(agreed) == len(found)
    surfaces = {tuple(words[s.start : s.end]) for s, _ in found}
    assert {tuple(words[a:b]) for a, b in borders} == surfaces


@given(scored())
def test_what_agrees_already_stays_as_it_is(case):
    words, found = case
    found = [(Span(s.start, s.end, "x"), score) for s, score in found]
    assert agree(words, found, 1.1) == found


def test_the_summed_probability_decides():
    words = "a . a . a".split()
    found = [(Span(0, 1, "x"), 0.9), (Span(2, 3, "y"), 0.5), (Span(4, 5, "y"), 0.3)]
    assert [s.label for s, _ in agree(words, found)] == ["x", "x", "x"]
    assert [score for _, score in agree(words, found)] == [0.9, pytest.approx(0.3), 0.3]
    found[2] = (Span(4, 5, "y"), 0.5)
    assert [s.label for s, _ in agree(words, found)] == ["y", "y", "y"]


def test_parts_of_longer_entities_are_no_mentions_and_longer_ones_come_first():
    words = "New York . New York Times . New York Times . New York".split()
    found = [(Span(0, 2, "city"), 0.8), (Span(3, 6, "paper"), 0.8)]
    have = [(" ".join(words[s.start : s.end]), s.label) for s, _ in agree(words, found)]
    assert have == [
        ("New York", "city"),
        ("New York Times", "paper"),
        ("New York Times", "paper"),
        ("New York", "city"),
    ]


def test_a_rare_guess_is_not_spread():
    words = ["in"] * 9 + ["Paris"]
    found = [(Span(3, 4, "city"), 0.9)]
    assert agree(words, found) == found


def test_time_is_linear():
    words = "the a the b the c".split() * 20_000
    found = [(Span(i, i + 2, "x"), 0.5) for i in range(0, 6_000, 2)]
    start = time.process_time()
    agree(words, found)
    assert time.process_time() - start < 2
