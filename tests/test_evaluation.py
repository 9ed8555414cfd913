"""Measures against brute force, seqeval and nervaluate; intervals, comparisons, calibration."""

import json
import math
import random
import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomina import calibration
from nomina.analysis import NOTHING, OUTCOMES, analyze, match_entities
from nomina.comparison import compare, compare_average, mcnemar
from nomina.entities import Example, LabelSet, Span, spans_to_tags, tags_to_spans
from nomina.errors import DataError, LabelError
from nomina.evaluation import (
    MEASURES,
    METRICS,
    Score,
    check_metrics,
    count_gner,
    evaluate,
    normalize_answer,
    score,
    score_labels,
)
from nomina.predictions import Prediction
from nomina.protocols import PROTOCOLS, drop_labels, get_protocol, sample_shots, unseen_labels
from nomina.reports import render_html

# --------------------------------------------------------------------------------------------------
# Made-up predictions


@st.composite
def flat_spans(draw, num_words=8, labels="xyz"):
    """Spans of one sentence that do not overlap."""
    spans, position = [], 0
    while position < num_words:
        position += draw(st.integers(0, 3))
        size = draw(st.integers(1, 3))
        if position + size > num_words:
            break
        spans.append(Span(position, position + size, draw(st.sampled_from(labels))))
        position += size
    return tuple(spans)


words_of = st.lists(st.sampled_from(["the", "New", "York", "new", "u.s."]), min_size=8, max_size=8)
sentences = st.builds(Prediction, words_of, flat_spans(), flat_spans())
corpora = st.lists(sentences, min_size=1, max_size=6)


def made_up(size, seed, quality=0.8):
    """A corpus with scores that are true probabilities."""
    rng = random.Random(seed)
    rows = []
    for index in range(size):
        gold, have, scores = [], [], []
        for start in range(0, 12, 3):
            if rng.random() < 0.7:
                label = rng.choice("xyz")
                chance = rng.random()
                gold.append(Span(start, start + 2, label))
                if chance < quality:
                    right = rng.random() < chance
                    have.append(Span(start, start + (2 if right else 1), label))
                    scores.append(chance)
        rows.append(Prediction(["w"] * 12, tuple(gold), tuple(have), tuple(scores), str(index)))
    return rows


# --------------------------------------------------------------------------------------------------
# Measures


def strict_by_force(prediction):
    return sum(
        (a.start, a.end, a.label) == (b.start, b.end, b.label)
        for a in prediction.gold
        for b in prediction.predicted
    )


def gner_by_force(prediction):
    """The measure as its description says, with lists."""

    def items(spans):
        out = []
        for span in spans:
            text = normalize_answer(" ".join(prediction.words[span.start : span.end]))
            if (text, normalize_answer(span.label)) not in out:
                out.append((text, normalize_answer(span.label)))
        return out

    gold, have = items(prediction.gold), items(prediction.predicted)
    return sum(item in gold for item in have), len(have), len(gold)


@given(sentences)
@settings(deadline=None, max_examples=60)
def test_measures_against_brute_force(prediction):
    gold, have = prediction.gold, prediction.predicted
    assert MEASURES["strict"](prediction) == (strict_by_force(prediction), len(have), len(gold))
    assert MEASURES["gner"](prediction) == gner_by_force(prediction)
    same_place = sum((a.start, a.end) == (b.start, b.end) for a in gold for b in have)
    assert MEASURES["exact"](prediction) == (same_place, len(have), len(gold))

    def word_labels(spans):
        return {(i, s.label) for s in spans for i in range(s.start, s.end)}

    a, b = word_labels(gold), word_labels(have)
    assert MEASURES["token"](prediction) == (len(a & b), len(b), len(a))


@given(corpora)
@settings(deadline=None, max_examples=40)
def test_strict_and_macro_agree_with_seqeval(rows):
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support as figures

    gold = [spans_to_tags(row.gold, 8) for row in rows]
    have = [spans_to_tags(row.predicted, 8) for row in rows]
    ours = score(rows, ("strict", "macro"), num_resamples=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for metric, average in (("strict", "micro"), ("macro", "macro")):
            want = figures(gold, have, average=average)[:3]
            if any(row.gold or row.predicted for row in rows):
                mine = ours[metric]
                assert (mine.precision, mine.recall, mine.f1) == pytest.approx(want)
        labels = score_labels(rows, num_resamples=0)
        if labels:
            want_labels = figures(gold, have, average=None)
            for index, label in enumerate(sorted(labels)):
                assert labels[label].f1 == pytest.approx(want_labels[2][index])
                assert labels[label].support == want_labels[3][index]


@given(corpora)
@settings(deadline=None, max_examples=40)
def test_partial_exact_and_type_agree_with_nervaluate(rows):
    from nervaluate import Evaluator

    def dicts(spans):
        return [{"label": s.label, "start": s.start, "end": s.end - 1} for s in spans]

    have = Evaluator(
        [dicts(r.gold) for r in rows],
        [dicts(r.predicted) for r in rows],
        tags=list("xyz"),
        loader="dict",
    ).evaluate()["overall"]
    ours = score(rows, ("strict", "partial", "exact", "type"), num_resamples=0)
    for metric, schema in (
        ("strict", "strict"),
        ("partial", "partial"),
        ("exact", "exact"),
        ("type", "ent_type"),
    ):
        want = have[schema]
        mine = ours[metric]
        assert (mine.precision, mine.recall, mine.f1) == pytest.approx(
            (want.precision, want.recall, want.f1)
        ), metric


def test_gner_counts_texts_once_and_without_positions():
    words = "the U.S. and the US".split()
    gold = (Span(0, 2, "place"), Span(3, 5, "place"))
    assert count_gner(Prediction(words, gold, (Span(4, 5, "Place"),))) == (1, 1, 1)


def test_unknown_metric_and_nothing_to_score():
    with pytest.raises(DataError, match="was: 'f2'"):
        score(made_up(2, 0), ["f2"])
    with pytest.raises(DataError, match="nothing to score"):
        score([])
    with pytest.raises(DataError, match="at least one corpus"):
        evaluate({})
    assert check_metrics(["all", "strict"]) == METRICS


@pytest.mark.parametrize("metric", METRICS)
def test_empty_gold_and_empty_predictions_are_zero(metric):
    empty = [Prediction(["a"], (), ())]
    have = score(empty, [metric])[metric]
    assert have == Score(0.0, 0.0, 0.0, 0.0, 0.0, 0)
    invented = score([Prediction(["a"], (), (Span(0, 1, "x"),))], [metric])[metric]
    assert (invented.precision, invented.f1, invented.support) == (0.0, 0.0, 0)


# --------------------------------------------------------------------------------------------------
# Intervals and comparisons


def bootstrap_by_force(rows, num_resamples, seed):
    """Draw sentences themselves."""
    rng = np.random.default_rng(seed)
    counts = np.array([MEASURES["strict"](row) for row in rows])
    out = []
    for _ in range(num_resamples):
        c, p, g = counts[rng.integers(0, len(rows), len(rows))].sum(axis=0)
        out.append(2 * c / (p + g) if p + g else 0.0)
    return np.quantile(out, [0.025, 0.975])


def test_drawing_kinds_of_sentences_is_drawing_sentences():
    rows = made_up(300, 1)
    have = score(rows, num_resamples=4000)["strict"]
    low, high = bootstrap_by_force(rows, 4000, 5)
    assert have.low == pytest.approx(low, abs=0.006)
    assert have.high == pytest.approx(high, abs=0.006)
    assert have.low < have.f1 < have.high


def test_bags_of_sentences_vary_as_sentences_do(monkeypatch):
    rows = made_up(2000, 2)
    plain = score(rows, ["macro"], num_resamples=2000)["macro"]
    monkeypatch.setattr("nomina.evaluation._MAX_KINDS", 100)
    bags = score(rows, ["macro"], num_resamples=2000)["macro"]
    assert bags.f1 == pytest.approx(plain.f1)
    assert bags.high - bags.low == pytest.approx(plain.high - plain.low, rel=0.25)


def test_the_average_weighs_corpora_equally():
    have = evaluate({"a": made_up(50, 1), "b": made_up(200, 2, 0.5)}, ["strict", "gner"])
    for metric in ("strict", "gner"):
        mean = sum(have.corpora[name][metric].f1 for name in "ab") / 2
        assert have.average[metric].f1 == pytest.approx(mean)
        assert have.average[metric].low < mean < have.average[metric].high
    shape = have.to_dict("m", 1.5)
    assert set(shape) == {"corpora", "average", "model", "seconds"}
    assert set(shape["corpora"]["a"]["strict"]) == {
        "precision",
        "recall",
        "f1",
        "low",
        "high",
        "support",
    }


def test_paired_comparison_sees_a_small_steady_gain():
    first = made_up(400, 3)
    second = [
        Prediction(r.words, r.gold, r.predicted + (r.gold[-1:] if k % 8 == 0 else ()), (), r.id)
        if r.gold and r.gold[-1] not in r.predicted
        else r
        for k, r in enumerate(first)
    ]
    have = compare(first, second)
    assert have.delta > 0
    assert have.low > 0
    assert have.p_bootstrap < 0.01
    assert have.only_first == 0 < have.only_second
    assert have.p_mcnemar < 0.01
    same = compare(first, first)
    assert (same.delta, same.p_bootstrap, same.p_mcnemar) == (0.0, 1.0, 1.0)


def test_comparison_refuses_other_sentences():
    rows = made_up(4, 1)
    with pytest.raises(DataError, match="4 and 3"):
        compare(rows, rows[:3])
    with pytest.raises(DataError, match="4 sentences"):
        compare(rows, [Prediction(["other"], (), ()) for _ in rows])
    with pytest.raises(DataError, match="metric"):
        compare(rows, rows, "macro")
    with pytest.raises(DataError, match="same corpora"):
        compare_average({"a": rows}, {"b": rows})


@given(st.integers(0, 40), st.integers(0, 40))
@settings(deadline=None, max_examples=50)
def test_mcnemar_is_the_binomial_test(a, b):
    total = a + b
    tail = sum(math.comb(total, k) for k in range(min(a, b) + 1)) / 2**total
    assert mcnemar(a, b) == pytest.approx(min(1.0, 2 * tail))
    assert 0 <= mcnemar(a * 5000, b * 5000) <= 1


# --------------------------------------------------------------------------------------------------
# Calibration


def test_true_probabilities_are_calibrated():
    scores, correct, missing = calibration.scored_entities(made_up(4000, 4))
    assert missing == 0
    assert calibration.expected_calibration_error(scores, correct) < 0.03
    assert calibration.fit_temperature(scores, correct).temperature == pytest.approx(1, abs=0.1)


def test_temperature_undoes_overconfidence_and_is_saved(tmp_path):
    scores, correct, _ = calibration.scored_entities(made_up(4000, 4))
    sharp = calibration.Calibration(1 / 3)
    fitted = calibration.fit_temperature([sharp.apply(s) for s in scores], correct)
    assert fitted.temperature == pytest.approx(3, rel=0.1)
    assert fitted.ece_after < 0.03 < fitted.ece_before
    fitted.save(tmp_path)
    assert calibration.Calibration.load(tmp_path) == fitted
    assert calibration.Calibration.load(tmp_path / "nothing").temperature == 1
    (tmp_path / "calibration.json").write_text("[]")
    with pytest.raises(DataError, match="must be an object"):
        calibration.Calibration.load(tmp_path)
    with pytest.raises(DataError, match="above 0"):
        calibration.Calibration(0)


@given(st.lists(st.tuples(st.floats(0.001, 0.999), st.booleans()), min_size=2, max_size=30))
@settings(deadline=None, max_examples=60)
def test_temperature_is_the_most_likely_one(pairs):
    scores, correct = [s for s, _ in pairs], [c for _, c in pairs]
    if len(set(correct)) < 2:
        with pytest.raises(DataError, match="right and wrong"):
            calibration.fit_temperature(scores, correct)
        return

    def loss(temperature):
        signed = [math.log(s / (1 - s)) * (1 if c else -1) / temperature for s, c in pairs]
        return sum(math.log1p(math.exp(-x)) if x > -700 else -x for x in signed)

    best = calibration.fit_temperature(scores, correct).temperature
    grid = [0.05 * 1.06**k for k in range(103)]
    assert loss(best) <= min(map(loss, grid)) + 1e-6


def test_cuts_and_risk():
    rows = made_up(300, 5)
    found = calibration.cuts(rows)
    assert found[0].coverage == 1
    whole = score(rows, num_resamples=0)["strict"]
    assert found[0].f1 == pytest.approx(whole.f1)
    middle = found[len(found) // 2]
    kept = [
        Prediction(
            r.words,
            r.gold,
            tuple(s for s, p in zip(r.predicted, r.scores, strict=True) if p >= middle.threshold),
        )
        for r in rows
    ]
    assert score(kept, num_resamples=0)["strict"].f1 == pytest.approx(middle.f1)
    assert 0 < calibration.area_under_risk(found) < found[0].risk
    assert len(calibration.thin(found, 50)) == 50


def test_scores_that_are_no_probabilities():
    with pytest.raises(DataError, match=r"from 0 to 1, was: 1\.5"):
        calibration.reliability([1.5], [True])
    with pytest.raises(DataError, match="2 scores but 1"):
        calibration.brier_score([0.5, 0.5], [True])
    row = Prediction(["a"], (), (Span(0, 1, "x"),), (math.nan,))
    assert calibration.scored_entities([row]) == ([], [], 1)
    assert calibration.summarize([row]) is None


# --------------------------------------------------------------------------------------------------
# Analysis and reports


@given(corpora)
@settings(deadline=None, max_examples=60)
def test_every_entity_falls_into_one_class(rows):
    have = analyze(rows)
    both = ("correct", "label", "boundary", "both")
    for row in rows:
        pairs = match_entities(row.gold, row.predicted)
        assert Counter(g for _, g, _ in pairs if g) == Counter(row.gold)
        assert Counter(p for _, _, p in pairs if p) == Counter(row.predicted)
        for outcome, gold, predicted in pairs:
            assert (gold is not None and predicted is not None) == (outcome in both)
    assert set(have.outcomes) <= set(OUTCOMES)
    assert have.outcomes["correct"] == sum(row.num_correct for row in rows)
    labels = score_labels(rows, num_resamples=0)
    assert {name: s.f1 for name, s in have.by_label.items()} == pytest.approx(
        {name: s.f1 for name, s in labels.items()}
    )


def test_analysis_names_what_to_fix():
    words = "He left New York City with Bob".split()
    gold = (Span(2, 5, "city"), Span(6, 7, "person"))
    have = analyze(
        [
            Prediction(words, gold, (Span(2, 4, "city"), Span(0, 1, "person"))),
            Prediction(words, gold, (Span(2, 5, "state"), Span(6, 7, "person"))),
        ],
        seen_labels=["Person"],
    )
    assert have.outcomes == {"boundary": 1, "missed": 1, "invented": 1, "label": 1, "correct": 1}
    assert have.boundaries == {"too short": 1}
    assert have.confusions["city", "state"] == 1
    assert have.confusions["person", NOTHING] == 1
    assert have.by_seen["seen"].recall == 0.5
    assert have.by_seen["unseen"].recall == 0
    assert have.frequent["missed"] == [("Bob", "person", 1)]
    case = have.cases["boundary"][0]
    assert (case.before, case.gold, case.predicted) == ("He left", "New York City", "New York")
    json.dumps(have.to_dict())


def test_the_report_is_one_page_that_fetches_nothing():
    rows = made_up(60, 6)
    rows.append(Prediction(["<script>", "&"], (Span(0, 1, "<b>"),), (), (), "<i>"))
    page = render_html(
        "a <model>",
        evaluate({"made up": rows, "too": rows}, ["strict"]),
        analyze(rows),
        calibration.summarize(rows),
        ["a <note>"],
    )
    assert "<script" not in page
    assert "<b>" not in page
    assert "a &lt;model&gt;" in page
    for outside in ("http:", "https:", "src=", "@import", "url(", "href="):
        assert outside not in page
    assert page.count("<svg") == page.count("</svg>") >= 5
    from xml.etree import ElementTree

    for part in page.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + part.split("</svg>")[0] + "</svg>")


# --------------------------------------------------------------------------------------------------
# Protocols


def test_protocols_by_name():
    assert get_protocol("zero-shot").corpora[0] == "crossner_ai"
    assert get_protocol("zero-shot").dropped_labels("mit_movie") == ()
    assert get_protocol("zero-shot-kept").dropped_labels("crossner_ai") == ()
    assert all(name == protocol.name for name, protocol in PROTOCOLS.items())
    with pytest.raises(DataError, match="protocol must be one of"):
        get_protocol("zero")
    assert unseen_labels(["a", "B"], ["b"]) == ["a"]


def test_dropped_labels_leave_their_sentences():
    own = LabelSet.of(["Misc"])
    rows = [
        Example.from_tags(["a", "b"], ["B-misc", "B-x"], labels=LabelSet.of(["misc", "x"])),
        Example.from_tags(["c"], ["B-Misc"], labels=own),
    ]
    left, labels = drop_labels(rows, LabelSet.of(["x", "MISC"]), ["misc"])
    assert [row.tags for row in left] == [["O", "B-x"], ["O"]]
    assert labels.names == ("x",)
    assert left[0].labels is not None
    assert left[0].labels.names == ("x",)
    assert left[1].labels is None
    with pytest.raises(LabelError):
        drop_labels(rows, own, ["misc"])


@given(st.lists(flat_spans(), min_size=1, max_size=30), st.integers(1, 4), st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_few_shot_draws_have_enough_of_each_label(spans, num_shots, seed):
    rows = [
        Example.from_tags(["w"] * 8, spans_to_tags(s, 8), id=str(k)) for k, s in enumerate(spans)
    ]
    chosen = sample_shots(rows, num_shots, seed)
    assert chosen == sample_shots(rows, num_shots, seed)
    available = Counter(s.label for row in rows for s in row.spans)
    have = Counter(s.label for row in chosen for s in row.spans)
    assert all(have[label] >= min(num_shots, n) for label, n in available.items())
    for row in chosen:  # none can be left out
        rest = have - Counter(s.label for s in row.spans)
        assert any(rest[s.label] < min(num_shots, available[s.label]) for s in row.spans)


def test_few_shot_refuses_zero():
    with pytest.raises(DataError, match="at least 1, was: 0"):
        sample_shots([], 0)


def test_spans_and_tags_agree_on_made_up_data():
    for row in made_up(20, 7):
        assert tuple(tags_to_spans(spans_to_tags(row.gold, 12))) == row.gold
