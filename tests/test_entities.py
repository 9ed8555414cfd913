"""Words, offsets, labels and tags: nothing is lost either way."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomina.entities import (
    MAX_WORD_CHARS,
    Entity,
    Example,
    Label,
    LabelSet,
    Span,
    _word_pattern,
    restore_spacing,
    spans_to_tags,
    split_words,
    tags_to_spans,
)
from nomina.errors import DataError, LabelError

ODD = (
    "e\u0301 \u200b\ufeff👩‍👩‍👧‍👦🇫🇷🏳️‍🌈 東京 ภาษาไทย ខ្មែរ שלום مرحبا नमस्ते \x00\x1f\u2028[](O)\\\t\n"
)
odd_text = st.text() | st.text(alphabet=ODD) | st.text(alphabet="ab1.,' -\n")


@given(odd_text)
def test_words_and_gaps_rebuild_every_string(text):
    offsets = split_words(text)
    position = 0
    for start, end in offsets:
        assert position <= start < end
        assert text[position:start].strip() == ""
        assert not any(char.isspace() for char in text[start:end])
        position = end
    assert text[position:].strip() == ""


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_the_quick_pattern_for_ascii_cuts_like_the_full_one(text):
    assert split_words(text) == [match.span() for match in _word_pattern().finditer(text)]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Paris's 1,000.50 U.S.", ["Paris", "'", "s", "1,000.50", "U", ".", "S", "."]),
        ("東京タワー", list("東京タワー")),
        ("cafe\u0301s", ["cafe\u0301s"]),
        ("👩‍👩‍👧 🇫🇷", ["👩‍👩‍👧", "🇫🇷"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("كتاب، جديد", ["كتاب", "،", "جديد"]),
        ("snake_case-name", ["snake", "_", "case", "-", "name"]),
        ("กรุงเทพ", ["ก", "รุ", "ง", "เ", "ท", "พ"]),
    ],
)
def test_words_of_many_scripts(text, want):
    assert [text[a:b] for a, b in split_words(text)] == want


def test_a_megabyte_of_one_character_is_cut_in_linear_time():
    offsets = split_words("a" * 1_000_000)
    assert max(b - a for a, b in offsets) <= MAX_WORD_CHARS
    assert sum(b - a for a, b in offsets) == 1_000_000


@given(st.lists(st.from_regex(r"\S{1,6}", fullmatch=True), max_size=12))
def test_restored_spacing_keeps_every_word(words):
    text, offsets = restore_spacing(words)
    assert [text[a:b] for a, b in offsets] == words
    assert re.sub(r"\s", "", text) == re.sub(r"\s", "", "".join(words))


spans = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 3), st.sampled_from(["a", "b-c", "d e"])),
    max_size=6,
)


@given(spans, st.sampled_from(["BIO", "IOB1", "BIOES"]))
def test_tags_and_spans_are_two_forms_of_one_thing(drawn, scheme):
    want, position = [], 0
    for gap, length, label in drawn:
        want.append(Span(position + gap, position + gap + length, label))
        position += gap + length
    tags = spans_to_tags(want, position + 2, scheme)
    assert tags_to_spans(tags) == want


def plain_spans(tags):
    """What `tags_to_spans` does, word by word."""
    spans, start, label = [], 0, None
    for index, tag in enumerate([*tags, "O"]):
        prefix, _, name = (tag or "O").partition("-")
        if label is not None and (prefix in "OBSU" or name != label):
            spans.append(Span(start, index, label))
            label = None
        if prefix != "O" and label is None:
            start, label = index, name
        if prefix in "ELSU":
            spans.append(Span(start, index + 1, name))
            label = None
    return spans


@given(st.lists(st.sampled_from(["", "O", *(f"{p}-{x}" for p in "BIESLU" for x in "ab")])))
def test_tags_of_mixed_schemes_are_read_as_word_by_word(tags):
    assert tags_to_spans(tags) == plain_spans(tags)
    assert tags_to_spans(dict(enumerate(tags)).values()) == plain_spans(tags)


@given(odd_text, st.data())
def test_words_cut_later_are_those_cut_at_once(text, data):
    whole = [i for i, char in enumerate(text) if not char.isspace()]
    starts = data.draw(st.lists(st.sampled_from(whole), unique=True)) if whole else []
    entities = [Entity(text[i : i + 1], "a", i, i + 1) for i in starts]
    made = Example.from_entities(text, entities, id="7", extra={"x": 1})
    words = [x for i in sorted(starts) for x in (i, i + 1)]
    parts = zip([0, *words], [*words, len(text)], strict=True)
    want = [(a + x, a + y) for a, b in parts for x, y in split_words(text[a:b])]
    # Every way to look at it first gives the same.
    for look in (copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        now = look(made)
        assert now.entities() == sorted(entities, key=lambda e: e.start)
        assert len(now.spans) == len(entities)
        assert list(now.offsets) == want
        assert now.entities() == [text_entity(now, span) for span in now.spans]
        assert (now.id, now.extra, now.source, now.labels) == ("7", {"x": 1}, "", None)
        assert now == made == Example(text, tuple(want), now.spans, id="7")
        assert hash(now) == hash(made)


def text_entity(example, span):
    start, end = example.offsets[span.start][0], example.offsets[span.end - 1][1]
    return Entity(example.text[start:end], span.label, start, end)


@given(st.lists(st.text(min_size=1)))
def test_words_are_found_again_in_the_text_they_make(words):
    example = Example.from_words(words)
    assert example.words == words
    assert example.tags == ["O"] * len(words)
    assert [example.text[a:b] for a, b in example.offsets] == words == example.words
    assert dataclasses.replace(example, text=f"{example.text}.").words == words


def test_offsets_of_other_integers_become_ours():
    made = Example.from_entities("in Paris", [Entity("", "c", Whole(3), Whole(8))])
    assert [type(x) for e in made.entities() for x in (e.start, e.end)] == [int, int]


class Whole(int):
    """An integer of another library."""


def test_examples_with_read_only_fields_are_copied():
    example = Example.from_words(["a"], extra=MappingProxyType({"is_joined": True}))
    for made in (copy.deepcopy(example), pickle.loads(pickle.dumps(example))):
        assert made == example
        assert made.extra == {"is_joined": True}


def test_errors_of_properties_are_their_own():
    with pytest.raises(AttributeError, match="has no attribute 'start'"):
        Example("a", ((0, 1),), ((0, 1, "x"),)).has_default_words  # noqa: B018


def test_only_words_are_made_later():
    example = Example.from_words(["a"])
    with pytest.raises(AttributeError, match="no attribute 'ofsets'"):
        example.ofsets  # noqa: B018
    with pytest.raises(TypeError, match="not attributes of an example: \\['sauce'\\]"):
        Example.from_words(["a"], sauce="b")


def test_tags_that_start_inside_begin_an_entity():
    assert tags_to_spans(["I-a", "I-b", "O", "I-b"]) == [
        Span(0, 1, "a"),
        Span(1, 2, "b"),
        Span(3, 4, "b"),
    ]


@pytest.mark.parametrize("tag", ["X-a", "B-", "B", "person"])
def test_a_malformed_tag_is_named(tag):
    with pytest.raises(DataError, match=re.escape(repr(tag))):
        tags_to_spans([tag])


def test_overlapping_spans_are_refused():
    with pytest.raises(DataError, match="overlaps"):
        spans_to_tags([Span(0, 2, "a"), Span(1, 3, "b")], 4)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "at least one"),
        (["a", "A"], "are the same"),
        (["a", "a_", "b"], "are the same"),
        ([""], "must have a name"),
        (["  "], "must have a name"),
        (["a\nb"], "one line"),
        (["a\tb"], "one line"),
        ("a,b", "was the string"),
        ([3], "must be a string"),
        ({"a": 3}, "definition"),
        ({"a": {"defintion": "x"}}, "unknown keys"),
        ({"a": {"examples": "x"}}, "list of strings"),
    ],
)
def test_labels_that_cannot_be_used_say_why(labels, message):
    with pytest.raises(LabelError, match=message):
        LabelSet.of(labels)


def test_label_sets_are_built_from_what_people_write():
    labels = LabelSet.of({"actor": "plays", "year (AD)": {"examples": ["1980"]}, "x": None})
    assert labels.names == ("actor", "year (AD)", "x")
    assert labels[0] == Label("actor", "plays")
    assert labels[1].examples == ("1980",)
    assert LabelSet.of(labels) is labels


@given(odd_text, st.data())
def test_examples_from_entities_give_them_back(text, data):
    words = split_words(text)
    if not words:
        return
    index = data.draw(st.integers(0, len(words) - 1))
    start, end = words[index][0], words[data.draw(st.integers(index, len(words) - 1))][1]
    # An entity may begin inside a word; its borders become borders of words.
    entity = Entity(text[start:end], "x", start, end)
    made = Example.from_entities(text, [entity])
    assert made.entities() == [entity]
    assert len(made.spans) == 1
    assert made.entities() == [entity]  # from its words now


@pytest.mark.parametrize(("start", "end"), [(0, 0), (3, 99), (-1, 2), (2, 3)])
def test_entities_that_do_not_fit_are_refused(start, end):
    with pytest.raises(DataError):
        Example.from_entities("in Paris", [Entity("", "x", start, end)])
