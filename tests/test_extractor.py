"""Promises of the tagger: grounded, scored, nothing silent, streams."""

from __future__ import annotations

import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from test_entities import odd_text

import nomina
from nomina.engine import EngineConfig
from nomina.entities import Entity, Example, LabelSet
from nomina.errors import LabelError, ModelError, TextError
from nomina.extractor import Tagger
from nomina.formats import Sentence, get_format

LABELS = ["actor", "year", "actor name"]


@settings(max_examples=25)
@given(text=odd_text)
def test_every_entity_is_the_text_at_its_offsets(tagger, text):
    document = tagger(text, LABELS)
    assert document.text == text
    last = 0
    for entity in document:
        assert text[entity.start : entity.end] == entity.text != ""
        assert entity.start >= last
        assert entity.label in LABELS
        assert 0 <= entity.score <= 1
        last = entity.end


def test_lone_surrogates_are_text_too(tagger):
    text = "a \ud800 b"
    assert all(text[e.start : e.end] == e.text for e in tagger(text, LABELS))


@pytest.mark.parametrize("text", ["", " ", "\n\t \u3000"])
def test_nothing_to_label(tagger, text):
    document = tagger(text, LABELS)
    assert document.entities == ()
    assert document.text == text


def test_long_texts_are_labelled_to_the_end(tagger):
    text = "george clooney met mary. " * 60
    document = tagger(text, LABELS)
    assert len(document) > 10  # a chaotic model tags all over the place
    assert document.entities[-1].end > 0.8 * len(text)


def test_streams_and_batches_give_what_calls_give(tagger):
    texts = ["did george act", "", "in 1980 a musical", "x" * 300, "東京 タワー"]
    alone = [tagger(text, LABELS) for text in texts]
    together = list(tagger.pipe(texts, LABELS))
    assert [[(e.start, e.end, e.label) for e in d] for d in together] == [
        [(e.start, e.end, e.label) for e in d] for d in alone
    ]
    sets = [nomina.LabelSet.of(LABELS), nomina.LabelSet.of(["genre"])]
    many = list(tagger.pipe_many(zip(texts, itertools.cycle(sets))))
    assert [d.text for d in many] == texts
    assert [e.label for e in many[1]] == []
    assert {e.label for d in many[3::2] for e in d} <= {"genre"}


def check_same(one, other):
    assert one.text == other.text
    places = [[(e.label, e.start, e.end) for e in document] for document in (one, other)]
    assert places[0] == places[1]
    scores = [e.score for e in other.entities]
    assert [e.score for e in one.entities] == pytest.approx(scores, abs=1e-4)


def test_as_done_gives_what_calls_give_and_short_texts_first(tagger):
    labels = LabelSet.of(["actor", "year"])
    texts = ["word in Paris " * 90, "", "did george clooney act in 1999", " ", "an actor"]
    given = list(tagger.pipe_as_done((text, labels) for text in texts))
    assert sorted(number for number, _ in given) == list(range(len(texts)))
    assert given[-1][0] == 0  # the long one is under way while all others are done
    for number, document in given:
        check_same(document, tagger(texts[number], labels))


def test_a_stream_may_pause_and_take_back(tagger):
    labels = LabelSet.of(["actor"])
    asked, dropped = [], {1}

    def items():
        yield "an actor in Rome", labels
        yield "word " * 600, labels
        for number in range(30):  # asked between readings, as long as something is being read
            asked.append(number)
            yield None if number % 3 else ("one more", labels)

    given = dict(tagger.pipe_as_done(items(), is_wanted=lambda number: number not in dropped))
    assert 1 not in given
    check_same(given[0], tagger("an actor in Rome", labels))
    assert len(given) == 1 + len([number for number in asked if number % 3 == 0])
    assert list(tagger.pipe_as_done([None, ("never", labels)])) == []  # nothing is under way
    with pytest.raises(TextError, match="probability"):
        list(tagger.pipe_as_done([], threshold=2))


def test_an_endless_stream_yields(tagger):
    stream = tagger.pipe((f"george number {i}" for i in itertools.count()), LABELS)
    assert [d.text for d in itertools.islice(stream, 3)] == [f"george number {i}" for i in range(3)]


@pytest.mark.parametrize("options", [{}, {"decoding": "free"}, {"num_beams": 2}])
def test_an_endless_stream_without_words_yields_too(build_model, options):
    tagger = Tagger(build_model("llama"), **options)
    taken = []

    def blanks():
        yield "in Paris"
        while True:
            taken.append(" \n")
            yield taken[-1]

    found = [doc.text for doc in itertools.islice(tagger.pipe(blanks(), ["city"]), 300)]
    assert found == ["in Paris", *[" \n"] * 299]
    assert len(taken) < 600
    items = ((text, LabelSet.of(["city"])) for text in blanks())
    texts = [doc.text for _, doc in itertools.islice(tagger.pipe_as_done(items), 300)]
    assert texts.count(" \n") >= 299
    assert len(taken) < 1200


def test_threshold_drops_what_is_less_sure(tagger):
    text = "did george clooney make a musical in the 1980s"
    scores = [e.score for e in tagger(text, LABELS, threshold=0)]
    assert scores
    limit = sorted(scores)[len(scores) // 2]
    assert all(e.score >= limit for e in tagger(text, LABELS, threshold=limit))
    assert tagger(text, LABELS, threshold=1.0).entities == () or max(scores) == 1.0


def test_words_of_an_example_are_the_units(tagger):
    example = Example.from_tags(["New-York's", "mayor"], ["O", "O"])
    for entity in tagger(example, LABELS):
        assert (entity.start, entity.end) in {(0, 10), (0, 16), (11, 16)}


@pytest.mark.parametrize(
    ("text", "labels", "error"),
    [
        (3, LABELS, TextError),
        (None, LABELS, TextError),
        (b"x", LABELS, TextError),
        ("x", [], LabelError),
        ("x", ["a", "a"], LabelError),
        ("x", "actor,year", LabelError),
        ("x", ["a\nb"], LabelError),
    ],
)
def test_bad_input_is_named(tagger, text, labels, error):
    with pytest.raises(error):
        tagger(text, labels)


def test_thresholds_and_single_strings_are_checked(tagger):
    with pytest.raises(TextError, match="from 0 to 1"):
        tagger("x", LABELS, threshold=2)
    with pytest.raises(TextError, match="many texts"):
        tagger.pipe("x", LABELS)


def test_brackets_in_labels_and_text(tagger):
    text = "see [1] (O) and a](b)"
    document = tagger(text, ["x (y)", "[z]"])
    assert all(text[e.start : e.end] == e.text for e in document)


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("form", ["inline", "gner"])
def test_other_families_keep_the_promises(build_model, family, form):
    tagger = Tagger(build_model(family, form, max_words=20))
    text = "did george clooney make {a} musical, 東京?"
    labels = {"actor": "a person", "year": ""}
    document = tagger(text, labels)
    assert all(text[e.start : e.end] == e.text for e in document)
    shown = Example.from_tags(["met", "george"], ["O", "B-actor"])
    tagger(text, labels, demonstrations=[shown])


def test_mentions_agree_if_asked(build_model):
    text = "george , mary , actor . " * 6
    model = build_model("gemma3", seed=1)
    plain, agreeing = Tagger(model), Tagger(model, consistent=True)
    before, after = plain(text, LABELS), agreeing(text, LABELS)
    assert before.entities != after.entities
    labels = {}
    for entity in after:
        assert text[entity.start : entity.end] == entity.text
        assert labels.setdefault(entity.text, entity.label) == entity.label
    scores = sorted(e.score for e in after)
    _, limit = max((b - a, (a + b) / 2) for a, b in itertools.pairwise(scores))
    assert [(e.start, e.end) for e in agreeing(text, LABELS, threshold=limit)] == [
        (e.start, e.end) for e in after if e.score >= limit
    ]


def test_beams_keep_the_promises(build_model):
    model = build_model("gemma3", max_words=12)
    text = "did george clooney make {a} musical, 東京? " * 2
    one, many = Tagger(model), Tagger(model, num_beams=3)
    assert all(text[e.start : e.end] == e.text for e in many(text, LABELS))
    assert list(many(text, LABELS)) != list(one(text, LABELS))
    with pytest.raises(ModelError, match="takes no num_beams, was: 3"):
        Tagger(model, decoding="free", num_beams=3)


def shown(doc):
    return [(e.text, e.label, e.start, round(e.score, 3)) for e in doc]


@pytest.mark.parametrize("decoding", ["grounded", "free"])
@pytest.mark.parametrize("family", ["gemma3", "t5"])
def test_streams_by_turns_and_in_threads_are_as_alone(build_model, family, decoding):
    options = {"decoding": "free", "max_new_tokens": 30} if decoding == "free" else {}
    tagger = Tagger(build_model(family, "gner", 3), config=EngineConfig(max_rows=3), **options)
    words = "did george clooney make a musical in the 1980s and who met an actor there".split()
    texts = [" ".join(words[: 3 + 5 * n % 11]) for n in range(8)]
    others = [" ".join(words[n:]) for n in range(8)]
    one, two = ["actor", "year"], ["genre", "place", "actor name"]
    want = [shown(tagger(text, one)) for text in texts], [shown(tagger(x, two)) for x in others]
    by_turns = list(zip(tagger.pipe(texts, one), tagger.pipe(others, two), strict=True))
    assert [shown(doc) for doc, _ in by_turns] == want[0]
    assert [shown(doc) for _, doc in by_turns] == want[1]
    inside = []
    for doc, text in zip(tagger.pipe(texts, one), others, strict=True):
        inside.append((shown(doc), shown(tagger(text, two))))
    assert inside == list(zip(*want, strict=True))
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(tagger, text, one) for text in texts]
        jobs += [pool.submit(tagger, text, two) for text in others]
        assert [shown(job.result()) for job in jobs] == want[0] + want[1]


@pytest.mark.parametrize("form", ["inline", "gner"])
def test_words_without_a_letter_in_them_are_read_too(build_model, form):
    tagger = Tagger(build_model("gemma3", form, 3))
    doc = tagger(Example.from_tags(["a", "", "b"], ["O"] * 3), ["actor"])
    assert all(doc.text[e.start : e.end] == e.text for e in doc)


def test_what_stands_before_a_failure_is_given_back(tagger):
    def texts():
        yield from ("george", "clooney", "in 1980")
        raise ValueError("boom")

    found = tagger.pipe(texts(), ["actor"])
    assert [next(found).text for _ in range(3)] == ["george", "clooney", "in 1980"]
    with pytest.raises(ValueError, match="boom"):
        next(found)
    found = tagger.pipe(["a", None], ["actor"])
    assert next(found).text == "a"
    with pytest.raises(TextError, match="must be a string"):
        next(found)


def test_demonstrations_are_matched_as_labels_are_and_checked(tagger):
    shown = Example.from_entities("Ship to Oslo.", [Entity("Oslo", "Destination", 8, 12)])
    same = Example.from_entities("Ship to Oslo.", [Entity("Oslo", "destination", 8, 12)])
    labels = LabelSet.of(["destination", "year"])
    sentence = Sentence.of("in Paris", [(0, 2), (3, 8)])
    for form in ("inline", "gner"):
        prompts = [get_format(form).prompt(sentence, labels, True, [x]) for x in (shown, same)]
        assert prompts[0] == prompts[1]
    with pytest.raises(LabelError, match="no demonstration has a label that is asked for"):
        tagger("in Paris", ["city"], demonstrations=[shown])
    asked: list[list[Example]] = []
    real = tagger.model.format.prompt

    def prompt(*args):
        asked.append(list(args[3]))
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(tagger.model.format), "prompt", lambda _, *args: prompt(*args))
        tagger("in Paris", labels, demonstrations=(x for x in [shown]))
    assert asked == [[shown]]
    for odd in (shown, [{"text": "a"}], 3):
        with pytest.raises(TextError, match="must be a list of `Example`"):
            tagger("in Paris", ["city"], demonstrations=odd)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "int8"}, TextError, "float32, bfloat16, float16"),
        ({"dtype": 3}, TextError, "float32, bfloat16, float16"),
        ({"device": "gpu"}, ModelError, "device 'gpu' cannot be used"),
        ({"device": 9_999}, ModelError, "device 9999 cannot be used"),
    ],
)
def test_bad_options_of_loading_are_not_blamed_on_files(tiny_folder, options, error, message):
    with pytest.raises(error, match=message):
        nomina.load(tiny_folder, **options)


def test_loading_takes_dtypes_and_numbers_of_devices(tiny_folder):
    tagger = nomina.load(tiny_folder, dtype=torch.float32, device=-1)
    assert tagger.model.module.dtype == torch.float32
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(tagger)


@pytest.mark.parametrize("labels", [None, 3])
def test_what_are_no_labels_is_named(tagger, labels):
    with pytest.raises(LabelError, match="must be a list of names"):
        tagger("a", labels)


def test_a_threshold_is_a_number(tagger):
    with pytest.raises(TextError, match="from 0 to 1, was: '0"):
        tagger("a", ["b"], threshold="0.5")
