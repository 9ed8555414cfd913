"""The component in real spaCy pipelines: the tagger's entities, aligned, scored, saved."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_entities import odd_text

spacy = pytest.importorskip("spacy")

from spacy.tokens import Doc, Span  # noqa: E402
from spacy.training import Example  # noqa: E402

import nomina  # noqa: E402
from nomina.corpora import read_examples  # noqa: E402
from nomina.entities import LabelSet  # noqa: E402
from nomina.errors import LabelError, ModelError, TextError  # noqa: E402
from nomina.integrations.spacy import (  # noqa: E402
    ALIGNMENT_MODES,
    AlignmentWarning,
    NominaPipe,
    Settings,
)

LABELS = ["actor", "year", "genre"]
TEXT = "did george clooney make a musical in the 1980s ?"


@pytest.fixture
def make(tiny_folder):
    """Make a blank pipeline with the component."""

    def make(**config):
        nlp = spacy.blank("en")
        nlp.add_pipe("nomina", config={"labels": LABELS, "model": str(tiny_folder), **config})
        return nlp

    return make


@pytest.fixture(scope="session")
def local(tiny_folder):
    return nomina.load(tiny_folder)


def found(doc):
    return [(e.label_, e.start_char, e.end_char, e._.nomina_score) for e in doc.ents]


def want(document):
    return [(e.label, e.start, e.end, e.score) for e in document]


class Fixed:
    """A tagger of our own that finds what it is told, to put entities where a test needs them."""

    def __init__(self, *entities, fail=()):
        self.entities, self.fail = entities, fail

    def pipe(self, texts, labels, **_):
        for text in texts:
            if text in self.fail:
                raise RuntimeError(f"cannot read {text}")
            yield nomina.Document(
                text,
                tuple(nomina.Entity(text[a:b], x, a, b, score) for x, a, b, score in self.entities),
                ("a note",),
            )


def fixed(tagger, **config):
    nlp = spacy.blank("en")
    return nlp, NominaPipe(nlp.vocab, "nomina", Settings(LabelSet.of(LABELS), **config), tagger)


def test_entities_and_scores_are_the_taggers(make, local):
    doc = make()(TEXT)
    same_but_rounded(found(doc), want(local(TEXT, LABELS)))
    assert found(doc)
    assert [e.text for e in doc.ents] == [TEXT[e.start_char : e.end_char] for e in doc.ents]


def test_definitions_and_thresholds_are_the_taggers(make, local):
    labels = {"actor": "a person", "year": {"definition": "a date", "examples": ["1980"]}}
    same_but_rounded(found(make(labels=labels)(TEXT)), want(local(TEXT, labels)))
    plain = make(labels=labels, definitions=False, threshold=0.3)(TEXT)
    same_but_rounded(found(plain), want(local(TEXT, list(labels), threshold=0.3)))


def same_but_rounded(one, other):
    """Scores differ in bfloat16 with how far the engine guessed ahead."""
    assert [x[:3] for x in one] == [x[:3] for x in other]
    assert [x[3] for x in one] == pytest.approx([x[3] for x in other], abs=0.02)


def test_a_stream_gives_what_calls_give_and_keeps_its_context(make):
    nlp = make()
    texts = [TEXT, "", "in 1980 a musical", "  \n", "george met the director in Paris"] * 3
    pairs = list(nlp.pipe(((t, i) for i, t in enumerate(texts)), as_tuples=True, batch_size=4))
    assert [i for _, i in pairs] == list(range(len(texts)))
    for doc, i in pairs:
        assert doc.text == texts[i]
        assert [x[:3] for x in found(doc)] == [x[:3] for x in found(nlp(texts[i]))]


@settings(max_examples=25)
@given(text=odd_text, mode=st.sampled_from(ALIGNMENT_MODES))
def test_every_entity_is_set_or_listed(local, text, mode):
    nlp = spacy.blank("en")
    pipe = NominaPipe(nlp.vocab, "x", Settings(LabelSet.of(LABELS), alignment_mode=mode), local)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AlignmentWarning)
        doc = pipe(nlp.make_doc(text))
    if mode == "tokens":
        assert doc._.nomina_changes == ()
        return
    set_as_found = {(label, a, b) for label, a, b, _ in found(doc)}
    listed = {(c["label"], c["start"], c["end"]) for c in doc._.nomina_changes}
    everything = {(e.label, e.start, e.end) for e in local(text, LABELS)}
    assert everything == listed | (set_as_found & everything)
    assert len(doc.ents) + sum(c["became"] is None for c in doc._.nomina_changes) == len(everything)


@pytest.mark.parametrize(
    ("mode", "ents", "became"),
    [
        ("expand", ["Clooney-like"], ["Clooney-like", None]),
        ("contract", ["-like"], [None, "-like"]),
        ("strict", [], [None, None]),
    ],
)
def test_entities_inside_tokens(mode, ents, became):
    tagger = Fixed(("actor", 4, 8, 0.9), ("genre", 9, 16, 0.4))
    nlp, pipe = fixed(tagger, alignment_mode=mode)
    text = "did Clooney-like film"
    doc = Doc(nlp.vocab, ["did", "Clooney-like", "film"], [True, True, False])
    if mode == "contract":
        doc = Doc(nlp.vocab, ["did", "Clooney", "-", "like", "film"], [True, False, False, True, 0])
    assert doc.text == text
    with pytest.warns(AlignmentWarning, match="nomina_changes"):
        pipe(doc)
    assert [e.text for e in doc.ents] == ents
    assert [c["became"] for c in doc._.nomina_changes] == became
    assert doc._.nomina_changes[0]["score"] == 0.9
    assert doc._.nomina_warnings == ["a note"]


def test_tokens_as_words(make, local):
    nlp = make(alignment_mode="tokens")
    nlp.tokenizer = lambda text: Doc(nlp.vocab, text.split("_"), [False] * len(text.split("_")))
    doc = nlp("did_george clooney_make a musical_in 1980")
    borders = {t.idx for t in doc} | {t.idx + len(t) for t in doc}
    assert {x for e in doc.ents for x in (e.start_char, e.end_char)} <= borders
    assert doc._.nomina_changes == ()


@pytest.mark.parametrize("overwrite", [True, False])
def test_entities_that_are_there(overwrite):
    nlp, pipe = fixed(Fixed(("actor", 4, 18, 0.9)), overwrite_ents=overwrite)
    doc = nlp.make_doc("did george clooney act in 1980")
    doc.ents = [Span(doc, 2, 4, label="ORG"), Span(doc, 5, 6, label="DATE")]
    pipe(doc)
    texts = [(e.text, e.label_) for e in doc.ents]
    if overwrite:
        assert texts == [("george clooney", "actor"), ("1980", "DATE")]
        assert doc._.nomina_changes == ()
    else:
        assert texts == [("clooney act", "ORG"), ("1980", "DATE")]
        assert [c["text"] for c in doc._.nomina_changes] == ["george clooney"]
        assert "was there before" in doc._.nomina_changes[0]["why"]


def test_a_span_group_holds_spans_and_scores(make, local):
    nlp = make(spans_key="sc")
    doc = nlp(TEXT)
    assert doc.ents == ()
    group = doc.spans["sc"]
    assert [(s.label_, s.start_char, s.end_char) for s in group] == [
        x[:3] for x in want(local(TEXT, LABELS))
    ]
    assert group.attrs["scores"] == [s._.nomina_score for s in group] != []
    again = nlp.get_pipe("nomina")(doc)
    assert len(again.spans["sc"]) == 2 * len(group)
    nlp.get_pipe("nomina").configure(overwrite_ents=True)
    assert len(nlp.get_pipe("nomina")(doc).spans["sc"]) == len(group)


def test_pipelines_are_saved_and_loaded(make, tmp_path):
    nlp = make(labels={"actor": "a person", "year": ""}, spans_key="x")
    nlp.get_pipe("nomina").configure(threshold=0.25)
    before = nlp.get_pipe("nomina").settings
    nlp.to_disk(tmp_path / "pipeline")
    loaded = spacy.load(tmp_path / "pipeline")
    bytewise = spacy.blank("en")
    bytewise.add_pipe("nomina", config={"labels": ["z"], "model": before.model})
    bytewise.from_bytes(nlp.to_bytes())
    for other in (loaded, bytewise, pickle.loads(pickle.dumps(nlp))):
        assert other.get_pipe("nomina").settings == before
        have, expected = other(TEXT), nlp(TEXT)
        assert [str(s) for s in have.spans["x"]] == [str(s) for s in expected.spans["x"]]


def test_documents_keep_their_scores_when_saved(make):
    nlp = make()
    doc = nlp(TEXT)
    assert found(Doc(nlp.vocab).from_bytes(doc.to_bytes())) == found(doc) != []


def test_nomina_reads_what_it_set_with_scores(make, tmp_path):
    doc = make()(TEXT)
    spacy.tokens.DocBin(docs=[doc], store_user_data=True).to_disk(tmp_path / "x.spacy")
    (example,) = read_examples(tmp_path / "x.spacy")
    assert [(e.label, e.start, e.end) for e in example.entities()] == [x[:3] for x in found(doc)]
    assert list(example.extra["scores"]) == [x[3] for x in found(doc)]


def test_labels_that_a_config_file_would_lose_are_refused_and_tables_carry_them(make, tmp_path):
    for names in ({"a:b": "x"}, {"#a": ""}, {"[x]": "y"}, ["${a}"]):
        with pytest.raises(LabelError, match="list of tables"):
            make(labels=names)
    nlp = make(labels=[{"name": "a:b", "definition": "x = y"}, {"name": "#c"}, "d"])
    nlp.to_disk(tmp_path)
    have = spacy.load(tmp_path).get_pipe("nomina").settings.labels
    assert have.names == ("a:b", "#c", "d")
    assert have[0].definition == "x = y"


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"labels": []}, LabelError, r'"labels": \["person", "city"\]'),
        ({"labels": ["a", "A"]}, LabelError, "the same"),
        ({"labels": "a,b"}, LabelError, "list of names"),
        ({"labels": [{"definition": "x"}]}, LabelError, "needs a `name`"),
        ({"labels": {"a": {"defnition": "x"}}}, LabelError, "defnition"),
        ({"threshold": 2}, TextError, "from 0 to 1, was: 2"),
        ({"threshold": "high"}, TextError, "was: 'high'"),
        ({"alignment_mode": "fuzzy"}, TextError, "expand, contract, strict, tokens"),
        ({"spans_key": ""}, TextError, "span group"),
        ({"overwrite_ents": "yes"}, TextError, "true or false"),
        ({"model": "./nowhere"}, ModelError, "no model"),
        ({"model": 3}, TextError, "`model` must be"),
        ({"treshold": 0.5}, ValueError, "treshold"),
    ],
)
def test_bad_settings_are_named(make, config, error, message):
    with pytest.raises(error, match=message):
        make(**config)


def test_a_document_that_cannot_be_set_goes_to_the_handler_alone():
    nlp, pipe = fixed(Fixed(("actor", 0, 3, 0.9)))
    docs = [nlp.make_doc(text) for text in ("did", "diddle", "did")]
    seen = []
    pipe.set_error_handler(lambda name, proc, docs, error: seen.append([d.text for d in docs]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [doc.text for doc in pipe.pipe(docs)] == ["did", "did"]
    assert seen == [["diddle"]]


def test_a_server_finds_entities_too():
    nlp = spacy.blank("en")
    pipe = nlp.add_pipe("nomina", config={"labels": ["a"], "model": "http://127.0.0.1:9"})
    assert isinstance(pipe._tagger, nomina.Client)  # which connects when it is first asked
    assert pipe._tagger.url == "http://127.0.0.1:9"


def test_components_share_a_model(make):
    nlp = make()
    config = {"labels": ["city"], "model": nlp.get_pipe("nomina").settings.model, "spans_key": "x"}
    second = nlp.add_pipe("nomina", name="second", config=config)
    assert second._tagger is nlp.get_pipe("nomina")._tagger
    doc = nlp(TEXT)
    assert {s.label_ for s in doc.spans["x"]} <= {"city"}
    assert {e.label_ for e in doc.ents} <= set(LABELS)


def test_settings_are_changed_by_name(make):
    pipe = make().get_pipe("nomina")
    pipe.configure(labels=["city"], threshold=0.1)
    assert pipe.labels == ("city",)
    with pytest.raises(TextError, match="there is no setting 'speed'"):
        pipe.configure(speed=3)


def test_the_error_handler_gets_what_failed_and_the_rest_goes_on():
    nlp, pipe = fixed(Fixed(fail=["bad"]))
    docs = [nlp.make_doc(text) for text in ("a", "bad", "b", "bad", "c")]
    with pytest.raises(RuntimeError, match="cannot read bad"):
        list(pipe.pipe(docs))
    seen = []
    pipe.set_error_handler(lambda name, proc, docs, error: seen.append([d.text for d in docs]))
    assert [doc.text for doc in pipe.pipe(docs)] == ["a", "b", "c"]
    assert seen == [["bad"], ["bad"]]

    with pytest.raises(RuntimeError, match="cannot read bad"):
        pipe(docs[1])  # spaCy itself handles errors of a call

    def upstream():
        yield docs[0]
        raise KeyError("upstream")

    with pytest.raises(KeyError, match="upstream"):  # not ours to handle
        list(pipe.pipe(upstream()))


@pytest.mark.parametrize("key", [None, "sc"])
def test_spacy_scores_it(make, key):
    nlp = make(spans_key=key)
    doc = nlp(TEXT)
    gold = doc.copy()
    scores = nlp.evaluate([Example(nlp.make_doc(TEXT), gold)])
    assert scores["ents_f" if key is None else "spans_sc_f"] == 1.0


def test_the_entry_point_is_declared():
    from pathlib import Path

    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert '[project.entry-points.spacy_factories]\nnomina = "nomina.integrations.spacy:' in text
    import nomina.integrations.spacy as room

    assert callable(room.make_nomina)


def test_importing_nomina_loads_no_spacy_and_the_component_no_transformers():
    # spaCy imports what entry points name as soon as a pipeline is made
    code = (
        "import sys, nomina, nomina.cli; assert 'spacy' not in sys.modules; "
        "import nomina.integrations.spacy; assert 'transformers' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_two_components_keep_their_scores():
    _, first = fixed(Fixed(("actor", 4, 18, 0.9)))
    _, second = fixed(Fixed(("genre", 4, 18, 0.3)), spans_key="x")
    doc = spacy.blank("en").make_doc("did george clooney act in 1980")
    second(second(first(doc)))
    assert found(doc) == [("actor", 4, 18, 0.9)]
    assert doc.spans["x"].attrs["scores"] == [0.3, 0.3]
    assert [span._.nomina_score for span in doc.spans["x"]] == [0.3, 0.3]
    doc.ents[0]._.nomina_score = 0.5
    assert found(doc) == [("actor", 4, 18, 0.5)]


def test_a_group_of_another_component_keeps_its_scores():
    _, pipe = fixed(Fixed(("actor", 4, 18, 0.9)), spans_key="sc")
    doc = spacy.blank("en").make_doc("did george clooney act in 1980")
    attrs = {"scores": [0.77], "note": "mine"}
    spans = [Span(doc, 0, 1, label="Q")]
    doc.spans["sc"] = spacy.tokens.SpanGroup(doc, name="sc", spans=spans, attrs=attrs)
    pipe(doc)
    assert doc.spans["sc"].attrs == {"scores": [0.77, 0.9], "note": "mine"}


def test_what_loading_sets_anew_stays(make, tiny_folder, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(tiny_folder, moved)
    nlp = make(model=str(moved), threshold=0.3)
    nlp.get_pipe("nomina").configure(labels=["new"])
    nlp.to_disk(tmp_path / "pipeline")
    shutil.rmtree(moved)
    spacy_module = sys.modules["nomina.integrations.spacy"]
    spacy_module._taggers.clear()
    config = {"components.nomina.model": str(tiny_folder)}
    settings = spacy.load(tmp_path / "pipeline", config=config).get_pipe("nomina").settings
    assert settings.model == str(tiny_folder)
    assert settings.threshold == pytest.approx(0.3)
    assert settings.labels.names == ("new",)


def test_labels_may_be_a_tuple(make):
    assert make(labels=("a", "b")).get_pipe("nomina").labels == ("a", "b")
