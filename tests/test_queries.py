"""The queries that the default model trains on say what they should."""

from __future__ import annotations

from queries import LISTS, queries

from nomina.corpora.corpus import Report
from nomina.corpora.jsonl import DIALECTS


def test_every_query_is_annotated_with_labels_of_its_set():
    for number, record in enumerate(queries(500)):
        report = Report()
        example = DIALECTS["tokens"].parse(record, report, "query", str(number))
        assert example.spans
        assert example.labels is not None
        assert {span.label for span in example.spans} <= set(example.labels.names)
        assert not report.lines()


def test_the_same_seed_gives_the_same_and_none_twice():
    assert queries(50, seed=1) == queries(50, seed=1) != queries(50, seed=2)
    texts = [" ".join(record["tokens"]) for record in queries(300)]
    assert len(set(texts)) == 300


def test_what_the_benchmark_asks_for_is_left_out():
    assert not {"restaurants", "films", "movies"} & {*LISTS["places"], *LISTS["patterns"]}
    names = {name for place in LISTS["places"].values() for name in place["labels"]["name"]}
    assert not any(word in name for name in names for word in ("restaurant", "film", "movie"))


def test_patterns_name_slots_that_have_lists():
    for domain in LISTS["patterns"].values():
        for pattern in domain["patterns"]:
            slots = {part.partition("}")[0] for part in pattern.split("{")[1:]}
            assert slots <= set(domain)
