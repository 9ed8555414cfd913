"""What cannot be trained on is named with file and line; what can but is odd is noted."""

from __future__ import annotations

import json
import re

import pytest

from nomina.entities import Example
from nomina.errors import DataError, LabelError, RecipeError
from nomina.material import cut_example, read_material
from nomina.recipes import Recipe

GOOD = {
    "text": "Anna lives in Oslo.",
    "entities": [
        {"start": 0, "end": 4, "label": "person"},
        {"start": 14, "end": 18, "label": "city"},
    ],
}


@pytest.fixture
def make(tmp_path):
    """Write a file of records and read it as a recipe would."""

    def write(records, name="data.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return str(path)

    def read(records, **changes):
        made = {"data": write(records), "output": str(tmp_path / "out"), **changes}
        return read_material(Recipe.of(made))

    read.write = write
    return read


def one(text, *entities):
    return {"text": text, "entities": [{"start": a, "end": b, "label": x} for a, b, x in entities]}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "a b", "entites": []}, r"data.jsonl:2: unknown column 'entites'. Did you mean"),
        ({"text": "a b", "annotation": []}, r"data.jsonl:2: unknown column 'annotation'"),
        ({"words": ["a"]}, r"data.jsonl:2: is not a record of nomina: has no 'text'"),
        (one("Anna lives", (0, 4, "person"), (0, 10, "city")), r"data.jsonl:2 .*overlap"),
        (one("Anna", (0, 9, "person")), r"data.jsonl:2: .*outside a text of 4 characters"),
        (one("Anna", (0, 4, "Person")), r"data.jsonl:2: the labels 'Person' and 'person' \(.*:1\)"),
        (one("word " * 130, (0, 600, "city")), r"data.jsonl:2: an entity of 120 words"),
        (
            {**one("Anna", (0, 4, "person")), "label_set": ["city"]},
            r"data.jsonl:2: the label 'person' of an entity is not in .* \['city'\]",
        ),
    ],
)
def test_bad_records_are_named(make, record, message):
    with pytest.raises(DataError, match=message):
        make([GOOD, record])


def test_labels_are_those_of_the_labels_file(make, tmp_path):
    labels = tmp_path / "labels.toml"
    labels.write_text('[Person]\ndefinition = "a human being"\n[city]\n[year]\n')
    material = make([GOOD] * 3, labels=str(labels))
    assert material.labels.names == ("Person", "city", "year")
    (rows,) = material.mixture.corpora.values()
    assert {span.label for row in rows for span in row.spans} == {"Person", "city"}
    assert any("not in" in note and "year" in note for note in material.notes)
    question = next(material.mixture.questions(1))
    assert {label.name for label in question.labels} <= {"Person", "city", "year"}
    with pytest.raises(
        DataError, match=r"data.jsonl:2: the label 'citty' is not in .*Did you mean"
    ):
        make([GOOD, one("Oslo", (0, 4, "citty"))], labels=str(labels))


def test_an_empty_dev_set_is_an_error(make):
    for records in ([], [{"text": "nothing", "entities": []}]):
        dev = make.write(records, "dev.jsonl")
        with pytest.raises(DataError, match=r"dev\.jsonl"):
            make([GOOD], dev=[dev])


def test_data_without_entities_is_an_error(make):
    with pytest.raises(DataError, match="2 sentences and no entity"):
        make([{"text": "nothing", "entities": []}] * 2, labels="")


def test_dev_is_split_off_by_seed(make):
    records = [one(f"Oslo {i}", (0, 4, "city")) for i in range(200)]
    first, again, other = (make(records, seed=seed) for seed in (1, 1, 2))
    texts = [{row.text for row in x.dev[0].examples} for x in (first, again, other)]
    assert len(texts[0]) == 30
    assert texts[0] == texts[1] != texts[2]
    (rows,) = first.mixture.corpora.values()
    assert len(rows) == len(first.places) == 170
    assert not texts[0] & {row.text for row in rows}
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert make(records[:199]).dev == ()


def test_a_label_of_one_sentence_is_trained_on(make):
    records = [one(f"nothing {i}") for i in range(250)]
    records[7:9] = [one("in Oslo", (3, 7, "city")), one("Anna", (0, 4, "person"))]
    held = 0
    for seed in (100, 101, 106):  # neither, person, city would be held out
        material = make(records, seed=seed)
        (rows,) = material.mixture.corpora.values()
        assert {span.label for row in rows for span in row.spans} == {"city", "person"}
        held += len(material.dev)
    assert held == 0  # F1 would be 0 without an entity
    records[20] = one("Oslo again", (0, 4, "city"))
    found = [dev for seed in range(8) for dev in make(records, seed=seed).dev]
    assert found
    assert all({x.label for row in dev.examples for x in row.spans} == {"city"} for dev in found)


def test_columns_beside_annotations_are_none(make):
    plain = {"text": "nothing here", "meta": 1, "_task_hash": 2}
    for records in ([plain, {**GOOD, "meta": 2}], [{**GOOD, "meta": 2}, plain]):
        notes = "\n".join(make(records).notes)
        assert "column 'meta' is not used" in notes
        assert "column '_task_hash' is not used" in notes
    with pytest.raises(DataError, match=r"data.jsonl:1: unknown column 'meta'"):
        make([plain, GOOD])


def test_label_sets_of_records_are_spelled_as_elsewhere(make):
    city = one("in Oslo", (3, 7, "city"))
    records = [{**one("nothing"), "label_set": ["City"]}, {**city, "label_set": ["city"]}]
    (rows,) = make(records).mixture.corpora.values()
    assert [row.labels.names for row in rows] == [("City",), ("City",)]
    assert [span.label for row in rows for span in row.spans] == ["City"]
    # Files of a mixture: as their own label set has it, or else as the file does.
    records = [one("in Rome", (3, 7, "CITY")), city, {**city, "label_set": ["a", "City"]}]
    made = Recipe.of({"output": "x", "corpora": [make.write(records)]})
    (rows,) = read_material(made).mixture.corpora.values()
    assert [span.label for row in rows for span in row.spans] == ["City"] * 3


def test_what_is_odd_is_noted(make):
    dev = make.write([one("Oslo", (0, 4, "city")), one("2024", (0, 4, "year"))], "dev.jsonl")
    records = [GOOD, {**one("Oslo", (0, 4, "city")), "meta": 1}, {**GOOD, "meta": 2}]
    notes = "\n".join(make(records, dev=[dev]).notes)
    assert re.search(r"column 'meta' is not used \(.*data.jsonl:2, .*data.jsonl:3\)", notes)
    assert "never seen in dev, so its F1 says nothing of them: ['person']" in notes
    assert "that training never sees: ['year']" in notes
    assert "1 dev sentences are also trained on" in notes


def test_long_texts_are_cut_and_nothing_is_lost(make):
    text = "Anna lives in Oslo. " * 60
    entities = [(i * 20, i * 20 + 4, "person") for i in range(60)]
    material = make([GOOD, one(text, *entities)])
    (rows,) = material.mixture.corpora.values()
    assert sum(len(row.spans) for row in rows) == 62
    assert all(len(row.offsets) <= 100 for row in rows)
    assert all(row.text[e.start : e.end] == e.text for row in rows for e in row.entities())
    assert any(re.search(r"1 texts are longer .*data.jsonl:2", note) for note in material.notes)
    assert len(material.places) == len(rows)


def test_a_cut_never_goes_through_an_entity():
    tags = ["O"] * 3 + ["B-x"] + ["I-x"] * 5 + ["O"] * 12
    row = Example.from_tags([f"w{i}" for i in range(21)], tags)
    for limit in range(6, 21):
        pieces = cut_example(row, limit)
        assert " ".join(piece.text for piece in pieces) == row.text
        assert [e.text for p in pieces for e in p.entities()] == [row.entities()[0].text]
        assert all(len(piece.offsets) <= limit for piece in pieces)
    with pytest.raises(LabelError, match="6 words"):
        cut_example(row, 5)


def test_natural_text_keeps_its_spacing_and_words_get_some_back(make):
    natural = make([GOOD] * 3).mixture
    assert {next(natural.questions(i)).example.text for i in range(20)} == {GOOD["text"]}
    joined = make([{"tokens": ["in", "Oslo", "."], "labels": ["O", "B-city", "O"]}] * 3).mixture
    texts = {next(joined.questions(i)).example.text for i in range(40)}
    assert {"in Oslo .", "in Oslo."} <= texts


def test_a_group_asks_in_the_same_words(make):
    mixture = make([GOOD, one("Oslo", (0, 4, "city"))] * 3, mixture={"p_all_labels": 1.0}).mixture
    stream = mixture.questions(5)
    groups = [[next(stream).labels.names for _ in range(8)] for _ in range(12)]
    assert all(len(set(group)) == 1 for group in groups)
    assert {group[0] for group in groups} == {("person", "city"), ("city", "person")}


def test_settings_of_the_mixture_are_checked(make):
    with pytest.raises(RecipeError, match="p_nothing"):
        make([GOOD], mixture={"p_nothing": 0.1})


def test_label_sets_of_records_stay_theirs_in_dev(make):
    rows = [{**one("Anna lives", (0, 4, "person")), "label_set": ["person", "city"]}] * 4
    dev = make.write(
        [{**rows[0], "label_set": ["Person", "city"]}, one("Anna", (0, 4, "person"))], "dev.jsonl"
    )
    (found,) = make(rows, dev=[dev]).dev
    assert found.examples[0].labels.names == ("person", "city")
    assert found.examples[1].labels is None


def test_dev_sentences_that_are_read_hold_entities(make):
    rows = [one(f"nothing {n}") for n in range(600)]
    rows += [one(f"Anna {n}", (0, 4, "person")) for n in range(8)]
    found = [dev for seed in range(12) for dev in make(rows, dev_sentences=6, seed=seed).dev]
    assert len(found) > 3  # the others held out no entity at all
    for dev in found:
        assert len(dev.examples) == 6
        assert any(row.spans for row in dev.examples)


def test_other_definitions_are_other_data(make, tmp_path):
    seen = set()
    for definition in ("a town", "a human settlement"):
        path = tmp_path / "labels.json"
        path.write_text(json.dumps({"city": definition, "person": ""}))
        seen.add(make([one("in Oslo", (3, 7, "city"))] * 4, labels=str(path)).fingerprint)
    seen.add(make([{**one("in Oslo", (3, 7, "city")), "label_set": ["city"]}] * 4).fingerprint)
    assert len(seen) == 3


def test_files_are_mixed_and_their_losses_noted(tmp_path, monkeypatch):
    monkeypatch.delenv("NOMINA_DATA", raising=False)
    path = tmp_path / "own.jsonl"
    records = [
        one("cheap shoes", (0, 5, "price")) | {"label_set": ["price", "size"]},
        one(" "),
        one("New York", (0, 8, "city"), (4, 8, "person")),
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    recipe = Recipe.of({"output": "x", "corpora": [str(path)]})
    material = read_material(recipe)
    assert [len(rows) for rows in material.mixture.corpora.values()] == [2]
    assert any("overlapping" in note for note in material.notes)
    assert any("1 texts without a word" in note for note in material.notes)
    stream = material.mixture.questions(0)
    asked = {name for _ in range(50) for name in next(stream).labels.names}
    assert {"price", "size", "city"} <= asked
