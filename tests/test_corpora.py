import dataclasses
import gzip
import itertools
import json
import os
import string
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nomina.corpora import (
    DEFAULT_OPTIONS,
    FORMATS,
    FileOptions,
    Report,
    default_sets,
    files,
    guess_format,
    labelstudio,
    read_corpus,
    read_examples,
    write_examples,
)
from nomina.corpora.corpus import keep_longest
from nomina.corpora.files import write_whole
from nomina.corpora.jsonl import DIALECTS
from nomina.entities import (
    SCHEMES,
    Entity,
    Example,
    LabelSet,
    Span,
    join_words,
    restore_spacing,
    spans_to_entities,
)
from nomina.errors import DataError, MissingExtraError

DATA = Path(__file__).parent / "data"
NEEDS = {"spacy": "spacy", "parquet": "pyarrow", "dataset": "datasets"}
CARRY_ALL = ["nomina", "csv", "tsv", "parquet", "spacy"]
CARRY_TEXT = ["doccano", "prodigy", "label-studio", "brat", *CARRY_ALL]
CARRY_WORDS = ["gner", "tokens", "gliner", "conll", "prodigy", *CARRY_ALL]


def need(name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])


# --------------------------------------------------------------------------------------------------
# Drawn examples: every script, marks, emoji, line breaks, quotes, brackets, separators of formats

alphabet = st.one_of(
    st.sampled_from(" \n\t\r,;\"'[](){}<>#=|\\-_.ab東ไกา😀\u200d\u0301\u00a0\u2028\ufeff"),
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
)
texts = st.text(alphabet, min_size=1, max_size=40)
labels = st.sampled_from(["person", "programming language", "O", "B-x", "城市", "a,b;c", 'q"q'])


@st.composite
def examples(draw):
    text = draw(texts)
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    entities = []
    for start, end in zip(cuts[::2], cuts[1::2], strict=False):
        surface = text[start:end]
        if surface.strip() == surface and surface:
            score = draw(st.sampled_from([1.0, 1.0, 0.25]))
            entities.append(Entity(surface, draw(labels), start, end, score))
    example = Example.from_entities(text, entities, id=draw(st.sampled_from(["7", "a/b c", "é"])))
    if any(entity.score != 1 for entity in entities):
        extra = {"scores": tuple(entity.score for entity in entities)}
        example = dataclasses.replace(example, extra=extra)
    return example


full_examples = st.builds(
    lambda example, source, own: dataclasses.replace(example, source=source, labels=own),
    examples(),
    st.sampled_from(["", "wiki"]),
    st.sampled_from(
        [None, LabelSet.of({"city": "a town", "year": {"examples": ["1980"], "color": "#f00"}})]
    ),
)
tagged_examples = st.builds(
    lambda words, cut: Example.from_tags(
        words, (["O"] * cut + ["B-x y"] + ["I-x y"] * len(words))[: len(words)]
    ),
    st.lists(
        st.text(alphabet, min_size=1, max_size=6).filter(
            lambda w: len(w.split()) == 1 and w.split()[0] == w
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 8),
)
few = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def round_trip(written, name, folder, report=None, options=DEFAULT_OPTIONS):
    path = folder / f"file{os.urandom(4).hex()}{FORMATS[name].suffix}"
    write_examples(written, path, name, options, report)
    guessed = guess_format(path)
    assert guessed == {"tokens": "gner"}.get(name, name)
    found = Report()
    have = list(read_examples(path, report=found))
    return have, found


def scored(example):
    scores = example.extra.get("scores", [1.0] * len(example.spans))
    return [
        (e.text, e.label, e.start, e.end, s)
        for e, s in zip(example.entities(), scores, strict=True)
    ]


@pytest.mark.parametrize("name", CARRY_ALL)
@few
@given(st.lists(full_examples, min_size=1, max_size=3))
def test_formats_that_carry_all_lose_nothing(name, tmp_path, written):
    need(name)
    report = Report()
    have, found = round_trip(written, name, tmp_path, report)
    assert have == written
    assert [scored(e) for e in have] == [scored(e) for e in written]
    assert report.lines() == found.lines() == ()


def by_text(example):
    spans = [(s.start, s.end, "_".join(s.label.split())) for s in example.spans]
    return example.text, example.offsets, spans


@pytest.mark.parametrize("name", CARRY_TEXT)
@few
@given(st.lists(examples(), min_size=1, max_size=3))
def test_formats_with_text_keep_text_and_entities(name, tmp_path, written):
    need(name)
    report = Report()
    have, found = round_trip(written, name, tmp_path, report)
    if name == "brat":  # ordered by name, labels without spaces
        have.sort(key=by_text)
        written.sort(key=by_text)
    assert [e.text for e in have] == [e.text for e in written]
    assert [[e.text for e in x.entities()] for x in have] == [
        [e.text for e in x.entities()] for x in written
    ]
    if name == "brat":
        assert [[s.label for s in e.spans] for e in have] == [
            ["_".join(s.label.split()) for s in e.spans] for e in written
        ]
    else:
        assert [e.id for e in have] == [e.id for e in written]
        assert [[s.label for s in e.spans] for e in have] == [
            [s.label for s in e.spans] for e in written
        ]
    assert all("read from their prediction" in line for line in found.lines())
    lost = any(e.extra.get("scores") for e in written)
    if name in ("prodigy", "label-studio"):
        assert [scored(e) for e in have] == [scored(e) for e in written]
    elif name == "doccano":
        assert ("score" in " ".join(report.lines())) == lost


@pytest.mark.parametrize("name", CARRY_WORDS)
@few
@given(st.lists(tagged_examples, min_size=1, max_size=3))
def test_formats_with_words_keep_words_and_tags(name, tmp_path, written):
    need(name)
    report = Report()
    have, found = round_trip(written, name, tmp_path, report)
    assert [(e.words, e.tags) for e in have] == [(e.words, e.tags) for e in written]
    assert report.lines() == found.lines() == ()


@pytest.mark.parametrize("kind", ["label-studio", *DIALECTS])
def test_records_shown_to_those_who_erred_are_right(kind, tmp_path):
    shape = labelstudio.SHAPE if kind == "label-studio" else DIALECTS[kind].shape
    path = tmp_path / ("a.json" if kind == "label-studio" else "a.jsonl")
    path.write_text(f"[{shape}]" if kind == "label-studio" else shape, encoding="utf-8")
    (example,) = read_corpus(path, kind).examples
    assert [(e.text, e.label) for e in example.entities()] == [("Paris", "city")]


@pytest.mark.parametrize("scheme", SCHEMES)
@few
@given(st.lists(tagged_examples, min_size=1, max_size=3))
def test_conll_in_any_scheme(scheme, tmp_path, written):
    have, _ = round_trip(written, "conll", tmp_path, None, FileOptions(scheme=scheme))
    assert [(e.words, e.spans) for e in have] == [(e.words, e.spans) for e in written]


def test_word_formats_say_that_spacing_is_lost(tmp_path):
    example = Example.from_entities("Ann (Paris).", [Entity("Ann", "person", 0, 3)])
    for name in ("conll", "gner", "tokens", "gliner"):
        report = Report()
        have, _ = round_trip([example], name, tmp_path, report)
        assert have[0].text == "Ann ( Paris ) ."
        assert have[0].extra["is_joined"] is True
        assert report.lines() == ("1 texts lost their spacing, only words are written",)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_fields_of_other_tools_are_kept_or_named(name, tmp_path):
    need(name)
    example = Example.from_entities(
        "Ann", [Entity("Ann", "x", 0, 3)], id="0", extra={"topic": "people"}
    )
    report = Report()
    have, _ = round_trip([example], name, tmp_path, report)
    assert have[0].extra.get("topic") == "people" or "topic" in " ".join(report.lines())


def test_dataset_of_the_real_library():
    datasets = pytest.importorskip("datasets")
    from nomina.corpora.tables import read_dataset

    pa = pytest.importorskip("pyarrow")
    tags = datasets.List(datasets.ClassLabel(names=["O", "B-PER"]))
    features = datasets.Features(
        {"tokens": datasets.List(datasets.Value("string")), "ner_tags": tags}
    )
    rows = {"tokens": [["Ann", "left"]], "ner_tags": [[1, 0]]}
    # Not `from_dict`: datasets 5.2 cannot hash pyarrow 26's types
    table = pa.table(rows, schema=features.arrow_schema)
    (example,) = read_dataset(datasets.Dataset(table, fingerprint="rows"), Report())
    assert example.spans == (Span(0, 1, "PER"),)


def test_docbin_agrees_with_the_real_spacy(tmp_path):
    spacy = pytest.importorskip("spacy")
    from spacy.tokens import DocBin
    from spacy.training import biluo_tags_to_spans  # noqa: F401 (the real thing is there)

    nlp = spacy.blank("en")
    doc = nlp("  Ann saw New York\n\nin  May.")
    doc.ents = [doc.char_span(2, 5, label="person"), doc.char_span(10, 18, label="city")]
    groups = nlp("Ann saw New York.")
    groups.spans["sc"] = [
        groups.char_span(8, 16, label="city"),
        groups.char_span(12, 16, label="x"),
    ]
    DocBin(docs=[doc, groups], store_user_data=True).to_disk(tmp_path / "real.spacy")
    report = Report()
    have = list(read_examples(tmp_path / "real.spacy", report=report))
    assert have[0].text == doc.text
    assert [(e.text, e.label) for e in have[0].entities()] == [
        ("Ann", "person"),
        ("New York", "city"),
    ]
    assert [(e.text, e.label) for e in have[1].entities()] == [("New York", "city")]
    assert "1 overlapping entities left out" in report.lines()[0]
    # ... and spaCy reads what we write
    write_examples(have, tmp_path / "ours.spacy", "spacy")
    back = list(DocBin().from_disk(tmp_path / "ours.spacy").get_docs(nlp.vocab))
    assert [d.text for d in back] == [doc.text, groups.text]
    assert [(e.text, e.label_, e.start_char) for e in back[0].ents] == [
        (e.text, e.label_, e.start_char) for e in doc.ents
    ]


# --------------------------------------------------------------------------------------------------
# Files as their tools write them


def entities_of(path, index=0, **rest):
    corpus = read_corpus(str(DATA / path), **rest)
    return [(e.text, e.label) for e in corpus.examples[index].entities()], corpus.warnings


def test_conll_with_four_columns_documents_and_iob1():
    corpus = read_corpus(str(DATA / "four_columns_iob1.conll"))
    found = [[(e.text, e.label) for e in example.entities()] for example in corpus.examples]
    assert found == [
        [("EU", "ORG"), ("German", "MISC")],
        [("Paul Smith", "PER"), ("Anna Lee", "PER")],
        [("Bonn", "LOC")],
    ]
    assert [e.extra["document"] for e in corpus.examples] == [1, 1, 2]
    assert corpus.labels.names == ("ORG", "MISC", "PER", "LOC")
    assert "other columns of tags not read: 3" in corpus.warnings[0]
    chunks = read_corpus(str(DATA / "four_columns_iob1.conll"), options=FileOptions(tag_column=3))
    assert chunks.labels.names == ("NP", "VP")


def test_conll_writes_document_marks(tmp_path):
    corpus = read_corpus(str(DATA / "four_columns_iob1.conll"))
    have, _ = round_trip(corpus.examples, "conll", tmp_path)
    assert [dict(e.extra) for e in have] == [dict(e.extra) for e in corpus.examples]


def test_conll_with_index_column_and_text():
    (example,) = read_corpus(str(DATA / "uner.iob2")).examples
    assert (example.id, example.text) == ("weblog-1", "Ann likes NYC.")
    assert [(e.text, e.label) for e in example.entities()] == [("Ann", "PER"), ("NYC", "LOC")]
    assert "is_joined" not in example.extra


def test_conll_bioes_and_tag_first():
    assert entities_of("bioes.conll")[0] == [("New York", "LOC"), ("Paris", "LOC")]
    assert entities_of("tag_first.bio")[0] == [("george clooney", "ACTOR")]


def test_brat_names_what_it_cannot_carry():
    found, warnings = entities_of("brat")
    # T5 is cut at a line break, which is how brat writes it: not discontinuous
    assert found == [("Paris", "City"), ("New York Bank\nsaw", "Phrase"), ("Paris", "City")]
    text = " | ".join(warnings)
    for what in (
        "1 discontinuous entities dropped: Person",
        "2 overlapping entities left out, the longest kept",
        "1 relations dropped",
        "1 events dropped",
        "1 attributes dropped",
        "1 notes dropped",
    ):
        assert what in text


def test_label_studio_export():
    corpus = read_corpus(str(DATA / "label_studio.json"))
    found = [[(e.text, e.label) for e in example.entities()] for example in corpus.examples]
    assert found == [[("Ann", "person"), ("Paris", "city")], [], [("Bonn", "city")], []]
    assert corpus.examples[2].extra["scores"] == (0.7,)
    assert [e.id for e in corpus.examples] == ["11", "12", "13", "14"]
    text = " | ".join(corpus.warnings)
    for what in (
        "cancelled",
        "further annotators",
        "further labels",
        "regions left out: relation",
        "regions left out: choices",
        "read from their prediction",
        "tasks without an annotation, read as texts without entities",
    ):
        assert what in text
    assert entities_of("label_studio_min.json")[0] == [("Ann", "person")]


def test_label_studio_offsets_in_utf16_are_seen_by_the_text():
    found, warnings = entities_of("label_studio_utf16.json")
    assert found == [("Paris", "city")]
    assert "UTF-16" in warnings[0]


@pytest.mark.parametrize(
    ("file", "want"),
    [
        ("gliner.json", [("Ann", "person"), ("New York", "city")]),
        ("gner.jsonl", [("george clooney", "actor"), ("musicals", "genre")]),
        ("doccano.jsonl", [("Ann", "person"), ("New York", "city")]),
        ("doccano_relations.jsonl", [("Ann", "person"), ("New York", "city")]),
        ("prodigy.jsonl", [("Ann", "person"), ("NYC", "city")]),
    ],
)
def test_json_of_other_tools(file, want):
    assert entities_of(file)[0] == want


@pytest.mark.parametrize(
    ("words", "spans", "want", "losses"),
    [
        (["in", "", "Paris"], [[2, 2, "c"]], [("Paris", "c")], 0),
        (["", "Paris"], [[0, 1, "c"]], [("Paris", "c")], 1),  # trimmed
        (["a "], [[0, 0, "c"]], [("a", "c")], 2),
        (["a", "b"], [[0, 0, "y"], [0, 0, "x"]], [("a", "y")], 1),  # the first of the file
        (["a", "b"], [[1, 1, "x"], [0, 0, "x"]], [("a", "x"), ("b", "x")], 0),
        (["a", "b", "c"], [[0, 1, "x"], [1, 1, "y"]], [("a b", "x")], 1),
    ],
)
def test_odd_records_of_gliner(tmp_path, words, spans, want, losses):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"tokenized_text": words, "ner": spans}))
    report = Report()
    (example,) = read_examples(path, report=report)
    assert [(e.text, e.label) for e in example.entities()] == want
    assert len(report.lines()) == losses
    assert all(a < b for a, b in example.offsets)


def test_prodigy_leaves_out_rejected_answers():
    corpus = read_corpus(str(DATA / "prodigy.jsonl"))
    assert len(corpus) == 1
    assert corpus.examples[0].words == ["Ann", "saw", "NYC", "."]
    assert "not accept but reject" in corpus.warnings[0]


LONG = "x" * 70_000
ANN = {"start": 0, "end": 3, "label": "person"}
ANN_OF_DOCCANO = {"id": 5, "label": "person", "start_offset": 0, "end_offset": 3}


@pytest.mark.parametrize(
    "records",
    [
        [{"text": "Hm.", "answer": "ignore"}, {"text": "Ann.", "spans": [ANN], "answer": "accept"}],
        [{"text": LONG, "label": []}, {"text": "Ann.", "label": [[0, 3, "person"]]}],
        [{"text": LONG, "spans": []}, {"text": "Ann.", "spans": [ANN]}],
        [
            {"id": 1, "text": "Hm.", "entities": [], "relations": []},
            {"id": 2, "text": "Ann.", "entities": [ANN_OF_DOCCANO], "relations": []},
        ],
    ],
)
def test_a_first_record_without_marks_does_not_hide_whose_they_are(tmp_path, records):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    *_, last = read_examples(path)
    assert [(e.text, e.label) for e in last.entities()] == [("Ann", "person")]


@pytest.mark.parametrize(
    "fields",
    [
        {"annotator": "bob"},
        {"annotator": 1, "annotation_id": 1, "lead_time": 2.5, "label": []},
        {"spans": []},
        {"tokens": ["Ann", "."], "tags": ["O", "O"]},
        {"tokens": ["Ann", "."], "tags": ["travel", "news"]},
    ],
)
@pytest.mark.parametrize("before", [[], [{"text": "Hm.", "entities": []}]])
def test_fields_that_other_tools_have_too_hide_no_entities(tmp_path, fields, before):
    records = [*before, {"text": "Ann.", "entities": [ANN]}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({**record, **fields}) + "\n" for record in records))
    *_, last = read_examples(path)
    assert [(e.text, e.label) for e in last.entities()] == [("Ann", "person")]
    assert dict(last.extra) == fields


@pytest.mark.parametrize("name", ["entities", "spans", "label"])
def test_tasks_of_label_studio_may_name_their_result_as_others_do(tmp_path, name):
    region = {"start": 0, "end": 3, "text": "Ann", "labels": ["person"]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"id": 1, "text": "Ann.", name: [region], "annotator": 1}]))
    assert guess_format(path) == "label-studio"
    (example,) = read_examples(path)
    assert [e.label for e in example.entities()] == ["person"]


MARKED = {"entities": [ANN], "label": [[0, 3, "person"]], "spans": [ANN]}


@pytest.mark.parametrize("marks", MARKED)
def test_the_key_of_the_text_is_named(tmp_path, marks):
    record = {"body": "Ann.", marks: MARKED[marks]}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(record))
    options = FileOptions(text_column="body")
    (example,) = read_examples(path, options=options)
    assert (example.text, [e.text for e in example.entities()]) == ("Ann.", ["Ann"])
    with pytest.raises(DataError, match=r"has no 'bdoy'|Expected 'bdoy'"):
        list(read_examples(path, options=FileOptions(text_column="bdoy")))
    path.write_text(json.dumps({**record, "text": "TITLE"}))
    with pytest.raises(DataError, match=r"a.jsonl:1: has no 'bdoy'; its keys are \['body', "):
        list(read_examples(path, options=FileOptions(text_column="bdoy")))
    (tmp_path / "b.csv").write_text("text,body\nTITLE,Ann.\n")
    for name in ("a.jsonl", "b.csv"):
        report = Report()
        (example,) = read_examples(tmp_path / name, options=options, report=report)
        assert example.text == "Ann."
        assert "another one was named as the text: text" in report.lines()[0]


def test_words_need_no_key_of_a_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"tokens": ["Ann"], "labels": ["B-x"], "body": "Ann."}')
    (example,) = read_examples(path, options=FileOptions(text_column="body"))
    assert (example.tags, example.extra["body"]) == (["B-x"], "Ann.")


@pytest.mark.parametrize("name", ["nomina", "parquet"])
def test_an_entity_without_a_score_has_1(tmp_path, name):
    need(name)
    path = tmp_path / f"a{FORMATS[name].suffix}"
    if name == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        two = [{**ANN, "score": None}, {**ANN, "start": 4, "end": 7, "score": 0.5}]
        pq.write_table(pa.table({"text": ["Ann Bob"], "entities": [two]}), path)
    else:
        path.write_text(json.dumps({"text": "Ann Bob", "entities": [{**ANN, "score": None}]}))
    (example,) = read_examples(path)
    assert [scored(example)[0][-1], len(example.spans)] == [1.0, 2 if name == "parquet" else 1]


@pytest.mark.parametrize(
    ("lines", "want", "loss"),
    [
        (  # CoNLL-U: a token of two words, an empty node
            "# newdoc id = n1\n# newpar\n1\tfue\tO\n2-3\tal\tO\n2\ta\tO\n3\tel\tO\n"
            "3.1\t_\t_\n4\tmar\tB-LOC\n",
            [("mar", "LOC")],
            "2 ranges of words",
        ),
        (  # a no-break space inside a word
            "He PRP B-NP O\npaid VBD B-VP O\n10\xa0000 CD B-NP B-SUM\neuros NNS I-NP I-SUM\n",
            [("10\xa0000 euros", "SUM")],
            "other columns of tags",
        ),
        ("#\thttp://x.org/1 [2010]\nAnn\tB-PER\nsleeps\tO\n", [("Ann", "PER")], ""),
        (  # the last column of nothing but O
            "He PRP B-NP O\nran VBD B-VP O\n",
            [("He", "NP"), ("ran", "VP")],
            "other columns of tags not read: 4",
        ),
    ],
)
def test_conll_as_others_write_it(tmp_path, lines, want, loss):
    path = tmp_path / "a.conll"
    path.write_text(lines, encoding="utf-8")
    report = Report()
    (example,) = read_examples(path, report=report)
    assert [(e.text, e.label) for e in example.entities()] == want
    assert loss in " ".join(report.lines())


def test_a_mistyped_tag_is_named_or_set_aside(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text(
        "Rome\tB-LOC\nis\tO\n\n" * 50 + "Rome\tLOC\nis\tO\n\n" + "Bonn\tB-LOC\nis\tO\n\n"
    )
    with pytest.raises(DataError, match=r"a.conll:151: a tag must be O or like .* 'LOC'"):
        list(read_examples(path))
    assert len(list(read_examples(path, report=Report(skip_errors=True)))) == 51


@pytest.mark.parametrize("scores", [{"quality": 3}, [0.3], 7])
@pytest.mark.parametrize(
    "record",
    [
        {"text": "Ann.", "label": [[0, 3, "person"]]},
        {"tokens": ["Ann", "."], "labels": ["B-person", "O"]},
        {"tokenized_text": ["Ann", "."], "ner": [[0, 0, "person"]]},
    ],
)
def test_somebodys_field_named_scores_is_no_score(tmp_path, record, scores):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({**record, "scores": scores}))
    report = Report()
    (example,) = read_examples(path, report=report)
    assert [(e.label, e.score) for e in example.entities()] == [("person", 1.0)]
    assert "scores" in " ".join(report.lines())


def test_conll_says_that_it_leaves_out_a_document_name(tmp_path):
    report = Report()
    example = Example.from_tags(["Ann"], ["B-x"], extra={"document": "report-7.pdf"})
    write_examples([example], tmp_path / "a.conll", "conll", report=report)
    assert "fields left out: document" in " ".join(report.lines())


def test_label_studio_writes_a_line_break_as_two_signs(tmp_path):
    path = tmp_path / "a.json"
    regions = [
        {"type": "labels", "value": {"start": 0, "end": 9, "text": "Acme\\nCorp", "labels": ["x"]}}
    ]
    path.write_text(
        json.dumps([{"data": {"text": "Acme\nCorp pays."}, "annotations": [{"result": regions}]}])
    )
    (example,) = read_examples(path)
    assert [e.text for e in example.entities()] == ["Acme\nCorp"]


def test_places_count_lines_that_were_set_aside(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,text\n1,a\n2,\xff\n3,b\n4\n")
    report = Report(skip_errors=True)
    assert [e.text for e in read_examples(path, report=report)] == ["a", "b"]
    assert [r.place.rsplit(":", 1)[1] for r in report.rejected] == ["3", "5"]


@pytest.mark.parametrize(
    ("name", "data", "want", "place", "raw"),
    [
        (
            "a.csv",
            b'id,text\n1,"line one\nbad \xff line\nline three"\n2,\xfe\n3,fine\n',
            ["fine"],
            [3, 5],
            '1,"line one\nbad \\xff line\nline three"',
        ),
        (
            "a.conll",
            b"John\tB-per\n\xffvan\tI-per\nDyke\tI-per\nleft\tO\n\n\n"
            b"# text = \xff\nhe\tO\nran\tO\n\nAnn\tB-per\n\n# text = \xff\n",
            ["Ann"],
            [2, 7, 13],
            "John\tB-per\n\\xffvan\tI-per\nDyke\tI-per\nleft\tO",
        ),
    ],
)
def test_a_line_that_is_not_utf8_takes_its_record_along(tmp_path, name, data, want, place, raw):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"{name}:{place[0]}: byte 0xff in column \d is not UTF-8"):
        list(read_examples(path))
    report = Report(skip_errors=True)
    assert [e.text for e in read_examples(path, report=report)] == want
    assert [int(r.place.rsplit(":", 1)[1]) for r in report.rejected] == place
    assert report.rejected[0].raw == raw


def test_a_header_that_is_not_utf8_is_no_bad_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,\xff\ntext,id\nx,y\n")
    with pytest.raises(DataError, match=r"a.csv:1: byte 0xff"):
        list(read_examples(path, report=Report(skip_errors=True)))


def test_the_column_of_a_commented_file_has_labels_with_spaces(tmp_path):
    example = Example.from_tags(
        ["Tom", "Sawyer"], ["B-fictional being", "I-fictional being"], id="d"
    )
    write_examples([example, example], tmp_path / "a.conll", "conll")
    have = read_examples(tmp_path / "a.conll", options=FileOptions(tag_column=2))
    assert [e.spans for e in have] == [example.spans] * 2


def test_conll_keeps_ids_behind_texts_that_it_leaves_out(tmp_path):
    written = [Example.from_entities(text, [], id=str(i)) for i, text in enumerate("a bc")]
    have, _ = round_trip(written, "conll", tmp_path)
    assert [e.id for e in have] == ["0", "2", "3"]


def test_words_that_look_like_marks_of_documents_are_named(tmp_path):
    words = [["in", "-DOCSTART-", "-DOCEND-x", "Paris"], ["-DOCSTART-"], ["-DOC", "a-DOCSTART-"]]
    tags = [["O", "O", "B-city", "I-city"], ["O"], ["O", "O"]]
    written = [
        Example.from_tags(*x, id=str(i)) for i, x in enumerate(zip(words, tags, strict=True))
    ]
    report = Report()
    have, _ = round_trip(written, "conll", tmp_path, report)
    assert report.lines() == (
        "3 words left out, because CoNLL reads them as the mark of a document (example 0, "
        "example 1)",
        "1 texts without a word left out (example 1)",
    )
    assert [(e.id, e.words) for e in have] == [("0", ["in", "Paris"]), ("2", words[2])]
    assert [e.label for e in have[0].entities()] == ["city"]
    assert not have[1].extra.get("document")


def test_csv_with_semicolons_and_line_breaks():
    corpus = read_corpus(str(DATA / "semicolons.csv"))
    assert [e.text for e in corpus.examples] == ["Ann saw\nNew York; twice", "Rain."]
    assert corpus.examples[0].extra == {"note": "x"}


def test_gzip_and_byte_order_mark(tmp_path):
    plain = (DATA / "doccano.jsonl").read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(plain))
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + plain.replace(b"\n", b"\r\n"))
    for name in ("a.jsonl.gz", "b.jsonl"):
        assert read_corpus(str(tmp_path / name)).examples[0].text == "Ann saw New York."


# --------------------------------------------------------------------------------------------------
# Bad input: a clear error with file and position, and the rest goes on when asked


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.bin", b"\x7fELF\0\0", "is a binary file"),
        ("a.jsonl", b"", "the file is empty"),
        ("a.txt", b"just a sentence\n", "cannot tell the format; the first line is 'just a sen"),
        (
            "a.jsonl",
            '{"text": "ä"}\n'.encode() * 2 + b'{"text": "\xe4"}\n',
            r"a.jsonl:3: byte 0xe4",
        ),
        ("a.jsonl", '{"text": "a"}'.encode("utf-16"), "a.jsonl:1: the file is UTF-16"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a.jsonl:2: is not JSON"),
        ("a.jsonl", b'{"foo": "a"}\n', r"its keys are \['foo'\]"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', r"a.jsonl:2: expected an object, was: list"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": 5, "entities": []}\n',
            "a.jsonl:2: .*must be a string",
        ),
        ("a.jsonl", b'{"text": "abc", "label": [[1, 9, "x"]]}', r"a.jsonl:1: .*\[1, 9\).* outside"),
        ("a.jsonl", b'{"text": "abc", "label": [[2, 2, "x"]]}', r"a.jsonl:1: .*empty"),
        ("a.jsonl", b'{"text": "a c", "label": [[1, 2, "x"]]}', r"a.jsonl:1: .*white space only"),
        (
            "a.jsonl",
            b'{"text": "abc", "entities": [{"text": "bc", "label": "x", "start": 0, "end": 2}]}',
            r"a.jsonl:1: entity 'x' says 'bc', but the text from 0 to 2 is 'ab'",
        ),
        ("a.jsonl", b'{"text": "a", "entities": [{"label": "x", "start": 0}]}', "has no 'end'"),
        (
            "a.jsonl",
            b'{"text": "a", "entities": [1]}',
            r'a.jsonl:1: is not a record of nomina. Expected as in {"text": "to Paris", "entities"',
        ),
        (
            "a.jsonl",
            b'{"text": "a", "spans": [[0, 1, "x"]]}',
            r'as in .* "spans": \[{"start": 3',
        ),
        (
            "a.jsonl",
            b'{"text": "a", "label": [{"start": 0, "end": 1, "label": "x"}]}',
            r"a.jsonl:1: `label` must hold \[start, end, label\], was: {'start': 0",
        ),
        ("a.json", b'[{"text": "a", "entities": [null]}]', "record 1: is not a record of nomina"),
        (
            "a.jsonl",
            b'{"text": "a", "entities": [{"label": "x", "start": 0, "end": 1, "score": NaN}]}',
            r"a.jsonl:1: entity 'x' \[0, 1\) has the score nan. Expected a number",
        ),
        ("a.jsonl", b'{"text": "\\ud83d"}', r"a.jsonl:1: .*surrogate"),
        ("a.jsonl", b'{"text": "\\uD83D"}', r"a.jsonl:1: .*surrogate"),
        ("a.json", b'[{"text": "\\uD83D"}]', "surrogate"),
        ("a.jsonl", b'{"tokens": ["a"], "labels": ["O", "O"]}', "a.jsonl:1: 1 words but 2 tags"),
        ("a.jsonl", b'{"tokens": ["a"], "labels": ["PER"]}', "a.jsonl:1: a tag must be O or like"),
        (
            "a.jsonl",
            b'{"tokens": ["a", 1], "labels": ["O", "O"]}',
            "a.jsonl:1: words must be a list",
        ),
        ("a.jsonl", b'{"tokenized_text": ["a"], "ner": [[0, 1, "x"]]}', "outside the 1 words"),
        ("a.jsonl", b'{"tokenized_text": ["a"], "ner": [[false, 0, "x"]]}', "must hold"),
        ("a.jsonl", b'{"tokenized_text": [""], "ner": [[0, 0, "x"]]}', "is empty"),
        ("a.conll", b"a O\nb B-x\n" * 6 + b"\nc\n", r"a.conll:14: 1 columns, expected at least 2"),
        ("a.csv", b"id,body\n1,x\n", r"a.csv:1: there is no column 'text'; .*'body'"),
        ("a.csv", b"text,text\n1,x\n", "two columns have the same name"),
        ("a.csv", b"id,text\n1,x\n2\n", "a.csv:3: the row has 1 columns, the header has 2"),
        ("a.csv", b'id,text\n1,"x\n', "a.csv:2: is not CSV"),
        ("a.csv", b"text,entities\nx,{[\n", "a.csv:2: column 'entities' must hold JSON"),
        ("a.json", b'[{"data": {"a": "x", "b": "y"}, "annotations": []}]', "no text under 'text'"),
        (
            "a.json",
            b'[{"data": {"text": "x"}, "annotations": [{"result": null}]}]',
            "record 1: `result` must be a list",
        ),
        (
            "a.json",
            b'[{"data": {"text": "abc"}, "annotations": [{"result": [{"type": "labels", '
            b'"value": {"start": 0, "end": 2, "text": "zz", "labels": ["x"]}}]}]}]',
            "record 1: a region says 'zz', but the text from 0 to 2 is 'ab'",
        ),
        ("a.ann", b"T1\tCity 0 3\tabc\n", "a.txt: cannot be read"),
    ],
)
def test_bad_files_are_named_with_their_place(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_corpus(str(path))
    assert str(caught.value).count(f"{path}:") <= 1  # the place is named once


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("T1\tCity 0 50\tParis", r"doc.ann:1: offsets 0 50"),
        ("T1\tCity 0 3\tParis", r"doc.ann:1: the entity says 'Paris', but .* is 'Par'"),
        ("T1 City 0 3", "doc.ann:1: expected `T1<tab>Label"),
    ],
)
def test_bad_brat_lines(tmp_path, line, message):
    (tmp_path / "doc.txt").write_text("Paris is big.", encoding="utf-8")
    (tmp_path / "doc.ann").write_text(line + "\nT2\tWord 9 12\tbig\n", encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_corpus(str(tmp_path))
    assert str(caught.value).count("doc.ann") == 1
    report = Report(skip_errors=True)
    corpus = read_corpus(str(tmp_path), report=report)
    assert [e.text for e in corpus.examples[0].entities()] == ["big"]
    assert report.rejected[0].raw == line


def test_bad_docbin_and_parquet(tmp_path):
    pytest.importorskip("spacy")
    pytest.importorskip("pyarrow")
    (tmp_path / "a.spacy").write_bytes(b"not zlib")
    with pytest.raises(DataError, match=r"a.spacy: is not a DocBin that spaCy 3"):
        read_corpus(str(tmp_path / "a.spacy"))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"a.parquet: is not a Parquet file"):
        read_corpus(str(tmp_path / "a.parquet"))


def test_skipped_records_are_set_aside_and_the_rest_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\nnonsense\n{"text": "\xff"}\n{"text": "b"}\n{"no": 1}\n')
    report = Report(skip_errors=True)
    assert [e.text for e in read_examples(path, report=report)] == ["a", "b"]
    assert [r.place.rsplit(":", 1)[1] for r in report.rejected] == ["2", "3", "5"]
    assert report.rejected[0].raw == "nonsense"
    assert "3 records could not be read and were set aside" in report.lines()[0]


def test_a_line_without_end_is_refused_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 2**20)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "' + b"x" * 2**21)
    with pytest.raises(DataError, match=r"a.jsonl:1: the line is longer than 1 MiB"):
        list(read_examples(path, "nomina"))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("old", encoding="utf-8")

    def broken():
        yield Example.from_tags(["a"], ["O"])
        raise DataError("broken")

    for name in ("nomina", "csv", "label-studio", "conll"):
        with pytest.raises(DataError, match="broken"):
            write_examples(broken(), path, name)
        assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["a.jsonl"]
    with pytest.raises(DataError, match="broken"):
        write_examples(broken(), tmp_path / "folder", "brat")
    assert os.listdir(tmp_path) == ["a.jsonl"]
    with pytest.raises(DataError, match="exists already"):
        write_examples([], tmp_path, "brat")


def test_what_a_text_file_cannot_hold_is_refused(tmp_path):
    nul = Example.from_entities("a\0b", [])
    for name in ("conll", "csv", "brat"):
        with pytest.raises(DataError, match="NUL character"):
            write_examples([nul], tmp_path / f"x.{name}", name)
    half = Example("\ud83d", ((0, 1),))
    with pytest.raises(DataError, match="half a surrogate pair"):
        write_examples([half], tmp_path / "x.jsonl", "nomina")
    have, _ = round_trip([nul], "nomina", tmp_path)
    assert have[0].text == "a\0b"


def test_missing_extra_is_a_pip_line(tmp_path, monkeypatch):
    for package, name, extra in (
        ("spacy", "spacy", "spacy"),
        ("pyarrow", "parquet", "tables"),
        ("datasets", "dataset", "datasets"),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtraError, match=rf"pip install 'nomina\[{extra}\]'"):
            write_examples([], tmp_path / "x", name)


# --------------------------------------------------------------------------------------------------
# Overlaps and named sets


@few
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 6), st.sampled_from("ab")), max_size=12)
)
def test_keep_longest_counts_every_entity(drawn):
    entities = [Entity("x", label, start, start + size) for start, size, label in drawn]
    report = Report()
    kept = keep_longest(entities, report, "here")
    assert all(a.end <= b.start for a, b in itertools.pairwise(kept))
    assert len(kept) + sum(report.losses.values()) == len(entities)
    for entity in entities:  # whatever is left out overlaps one that is at least as long
        assert entity in kept or any(
            k.start < entity.end
            and entity.start < k.end
            and k.end - k.start >= entity.end - entity.start
            for k in kept
        )


def make_set(root, name, rows, names, split="train"):
    folder = root / name
    folder.mkdir(parents=True)
    with gzip.open(folder / f"{split}.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    (folder / "labels.json").write_text(json.dumps(names), encoding="utf-8")


def test_named_sets(tmp_path, monkeypatch):
    rows = [
        {"tokens": ["in", "Paris"], "labels": ["O", "B-city"], "source": "wiki", "genre": "news"},
        {"tokens": ["Ann"], "labels": ["B-saint"], "label_set": {"saint": "a holy person"}},
    ]
    make_set(tmp_path, "mine", rows, {"LOC": "city", "GPE": "city", "PER": "person"}, "dev")
    (tmp_path / "sets.json").write_text('{"mine": {"default_model": true}, "b": {}}')
    monkeypatch.setenv("NOMINA_DATA", str(tmp_path))
    corpus = read_corpus("mine")
    assert (corpus.name, corpus.split, len(corpus)) == ("mine", "dev", 2)
    assert corpus.labels.names == ("city", "person", "saint")
    assert corpus.labels[2].definition == "a holy person"
    first, second = corpus.examples
    assert (first.id, first.source, first.extra["genre"]) == ("0", "wiki", "news")
    assert (second.id, second.source, second.labels.names) == ("1", "mine", ("saint",))
    assert corpus.warnings == ("1 entities have labels that labels.json lacks: saint",)
    assert default_sets() == ["mine"]
    with pytest.raises(DataError, match=r"has the splits \['dev'\], was asked for: 'test'"):
        read_corpus("mine:test")
    with pytest.raises(DataError, match="Did you mean mine"):
        read_corpus("mime")
    with pytest.raises(DataError, match="no such file"):
        read_corpus("some/file.conll")
    monkeypatch.delenv("NOMINA_DATA")
    with pytest.raises(DataError, match="NOMINA_DATA is not set"):
        read_corpus("mine")


def test_a_bad_row_of_a_set_is_named(tmp_path, monkeypatch):
    good = {"tokens": ["a"], "labels": ["O"]}
    make_set(tmp_path, "mine", [good, {"tokens": ["a"], "labels": []}], {})
    make_set(tmp_path, "other", [good, good, {"tokens": ["a"]}], {})
    monkeypatch.setenv("NOMINA_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"train.jsonl.gz:2: 1 words but 0 tags"):
        read_corpus("mine")
    with pytest.raises(DataError, match=r"train.jsonl.gz:3: the row has no 'labels'"):
        read_corpus("other")


@pytest.mark.skipif(not os.environ.get("NOMINA_DATA"), reason="needs the corpora of NOMINA_DATA")
@pytest.mark.parametrize("name", ["wnut17:test", "manufacturing_zh:test", "hipe_ajmc_en:test"])
def test_no_offset_is_wrong_in_real_corpora(name):
    # benchmarks/corpora.py --offsets does this for all of them
    for example in read_corpus(name).examples:
        words = example.words
        for text, offsets in (join_words(words), restore_spacing(words)):
            assert [text[a:b] for a, b in offsets] == words
            for span, entity in zip(
                example.spans, spans_to_entities(text, offsets, example.spans), strict=True
            ):
                assert text[entity.start : entity.end] == entity.text
                assert "".join(entity.text.split()) == "".join(
                    "".join(words[span.start : span.end]).split()
                )


def test_nothing_heavy_is_imported():
    code = (
        "import sys, nomina.corpora, nomina.chunking, nomina.documents, nomina.labels;"
        "heavy = {'torch', 'transformers', 'spacy', 'pyarrow', 'datasets'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


def test_every_letter_is_plain_ascii_in_format_names():
    assert all(set(name) <= set(string.ascii_lowercase + "-") for name in FORMATS)


@given(
    st.lists(
        st.sampled_from(
            ["a\tO", "b\tB-x", "", "", " ", "\t", "\r", "-DOCSTART- O", "# id = 7", "#x\tO", "-\tO"]
        ),
        max_size=12,
    ),
    st.sets(st.integers(0, 12)),
    st.booleans(),
)
def test_conll_is_cut_as_line_by_line(lines, cuts, has_returns):
    """Whole paragraphs are cut at once; line by line is the plain way to the same sentences."""
    from nomina.corpora.conll import _cut_by_line, _sentences, _State

    end = "\r\n" if has_returns else "\n"
    blocks, start = [], 0
    for index in sorted({x for x in cuts if 0 < x < len(lines)} | {len(lines)}):
        blocks.append((start + 1, "".join(line + end for line in lines[start:index])))
        start = index
    have = list(_sentences(block for block in blocks if block[1]))
    assert have == list(_cut_by_line(lines, 1, _State()))


def test_links_stay_links_and_pipes_stay_pipes(tmp_path):
    link, target, pipe = (tmp_path / name for name in ("link", "target", "pipe"))
    target.write_text("old")
    link.symlink_to(target)
    with write_whole(link) as file:
        file.write("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(pipe.read_text)
        with write_whole(pipe) as file:
            file.write("through")
        assert found.result(timeout=20) == "through"
    assert pipe.is_fifo()
