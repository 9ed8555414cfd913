"""`nomina score`, `compare` and `evaluate`: files of predictions, and a scripted tagger."""

import dataclasses
import gzip
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from nomina import scoring
from nomina.calibration import Calibration
from nomina.commands.scoring import _progress, _seen, register
from nomina.corpora import read_set
from nomina.documents import Document
from nomina.entities import Entity, Example, LabelSet, Span
from nomina.errors import DataError
from nomina.labels import read_labels
from nomina.predictions import Prediction, Problems, read_predictions, write_predictions
from nomina.runs import Task, file_name, run_tasks, to_words
from nomina.scoring import EvaluationPlan, Outputs, evaluate_model, score_files

app = typer.Typer()
register(app)
runner = CliRunner(env={"COLUMNS": "160"})

GENERATIONS = Path(os.environ.get("NOMINA_DATA", "")) / "gner_t5_base_predictions"


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def our_row(index=0, predicted=None, gold=None, **rest):
    row = {"id": str(index), "corpus": "made_up", "words": ["in", "New", "York"]}
    row["gold"] = [[1, 3, "city"]] if gold is None else gold
    row["predicted"] = [[1, 3, "city", 0.9]] if predicted is None else predicted
    return {**row, **rest}


def gner_row(index=0, prediction="in(O) New(B-city) York(I-city)"):
    return {
        "id": str(index),
        "dataset": "made-up",
        "label_list": ["city"],
        "instance": {"words": ["in", "New", "York"], "labels": ["O", "B-city", "I-city"]},
        "prediction": prediction,
    }


def run_json(*args):
    result = runner.invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# --------------------------------------------------------------------------------------------------
# Score


@pytest.mark.skipif(not GENERATIONS.is_dir(), reason="needs NOMINA_DATA")
def test_published_figures_come_out_as_published():
    """700 real generations of GNER-T5-base; the published evaluator used T5's tokenizer."""
    want = json.loads((GENERATIONS / "expected_f1.json").read_text())
    have = run_json("score", GENERATIONS / "dev700.jsonl.gz", "--metric", "gner", "--json")
    assert have["average"]["gner"]["f1"] == pytest.approx(want.pop("average"), abs=1e-6)
    for name, f1 in want.items():
        assert have["corpora"][name]["gner"]["f1"] == pytest.approx(f1, abs=1e-6)
    best = run_json(
        "score",
        GENERATIONS / "dev700.jsonl.gz",
        "--metric",
        "gner",
        "--alignment",
        "best",
        "--json",
    )
    assert best["average"]["gner"]["f1"] > have["average"]["gner"]["f1"] + 0.004


def test_score_prints_the_agreed_shape(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", [our_row(0), our_row(1, [])])
    have = run_json("score", path, "--metric", "all", "--json")
    assert set(have) == {"corpora", "average", "model", "seconds"}
    assert have["corpora"]["made_up"]["strict"]["recall"] == 0.5
    assert have["average"]["strict"]["precision"] == 1.0
    assert have["model"] == "p.jsonl"
    assert have["corpora"]["made_up"]["strict"]["support"] == 2


def test_score_shows_tables_and_writes_a_report(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", [our_row(0), our_row(1, [[0, 1, "city", 0.2]])])
    report, folder = tmp_path / "deep" / "r.html", tmp_path / "out"
    result = runner.invoke(
        app, ["score", str(path), "--errors", "--report", str(report), "--output", str(folder)]
    )
    assert result.exit_code == 0, result.output
    assert "What goes wrong" in result.stdout
    assert "calibration error" in result.stdout
    assert report.read_text().startswith("<!doctype html>")
    assert json.loads((folder / "analysis.json").read_text())["errors"]["outcomes"]["missed"] == 1
    assert json.loads((folder / "scores.json").read_text())["model"] == "p.jsonl"


def test_completions_say_what_happened_to_them(tmp_path):
    rows = [gner_row(0), gner_row(1, "in(O) NewYork(B-city)"), gner_row(2, "in(O) New(B-town)")]
    path = write_lines(tmp_path / "p.jsonl", rows)
    result = runner.invoke(app, ["score", str(path), "--alignment", "best", "--metric", "gner"])
    assert result.exit_code == 0, result.output
    assert "exact" in result.stderr
    assert "outside the set: town (1)" in result.stderr
    assert "Better matching adds +" in result.stderr
    inline = our_row(0, completion="in [New York](city)", format="inline")
    del inline["predicted"]
    path = write_lines(tmp_path / "inline.jsonl", [inline])
    have = run_json("score", path, "--alignment", "best", "--json")
    assert have["average"]["strict"]["f1"] == 1


def test_gzip_tags_and_gold_from_elsewhere(tmp_path):
    gold = write_lines(
        tmp_path / "gold.jsonl",
        [{"id": "7", "tokens": ["in", "New", "York"], "labels": ["O", "B-city", "I-city"]}],
    )
    path = tmp_path / "p.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps({"id": "7", "predicted": ["O", "B-city", "I-city"]}))
    examples = [
        Example.from_tags(row["tokens"], row["labels"], id=row["id"], source="gold")
        for row in map(json.loads, gold.read_text().splitlines())
    ]
    have = read_predictions(path, gold=examples)
    assert have.predictions[0].num_correct == 1
    assert have.predictions[0].corpus == "gold"
    write_lines(tmp_path / "q.jsonl", [{"id": "8", "predicted": []}])
    with pytest.raises(DataError) as caught:
        read_predictions(tmp_path / "q.jsonl", gold=examples)
    assert "1 x prediction whose id no gold sentence has ('8')" in str(caught.value)
    assert "1 x gold sentence without a prediction ('7')" in str(caught.value)
    lenient = read_predictions(tmp_path / "q.jsonl", gold=examples, is_lenient=True)
    assert lenient.predictions[0].predicted == ()


def test_written_predictions_read_back(tmp_path):
    rows = [
        Prediction(
            ["a", "b"], (Span(0, 1, "x"),), (Span(1, 2, "y"),), (0.25,), "1", "c", ("x", "y")
        ),
        Prediction(["a"], (), (Span(0, 1, "y"),), (), "2", "c", ("x",)),
    ]
    for name in ("p.jsonl", "p.jsonl.gz"):
        write_predictions(tmp_path / name, rows)
        assert read_predictions(tmp_path / name).predictions == rows


# --------------------------------------------------------------------------------------------------
# Bad input: named and counted


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (our_row(predicted=["O", "B-city"]), "another number of tags than words"),
        (our_row(predicted=[[1, 9, "city"]]), "outside its sentence"),
        (our_row(predicted=[[1, 1, "city"]]), "outside its sentence, or empty"),
        (our_row(predicted=[[1, 2]]), "no [start, end, label]"),
        (our_row(predicted=[[1, 2, "city", 7]]), "score that is not between 0 and 1"),
        (our_row(predicted=3), "no list but int"),
        (our_row(predicted=["O", "X-city", "O"]), "a tag must be O or like"),
        ({k: v for k, v in our_row().items() if k != "predicted"}, "without `predicted`"),
        (our_row(predicted="x", format="yaml"), "cannot be read"),
    ],
)
def test_predictions_that_cannot_be_scored(tmp_path, row, message):
    path = write_lines(tmp_path / "p.jsonl", [our_row(9), row])
    result = runner.invoke(app, ["score", str(path), "--json"])
    assert result.exit_code == 1
    assert message in result.stderr
    assert "1 x " in result.stderr
    assert "--lenient" in result.stderr
    lenient = run_json("score", path, "--json", "--lenient")
    assert lenient["corpora"]["made_up"]["strict"]["recall"] == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no predictions"),
        ("{", "is not JSON"),
        ("[1]", "must be a JSON object"),
        ('{"id": "1"}', "needs `words`"),
        ('{"words": ["a"], "predicted": []}', "has no gold entities"),
        ('{"words": ["a"], "gold": ["O", "O"], "predicted": []}', "1 x gold with another number"),
        ('{"instance": 3, "prediction": ""}', "must be an object"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, text, message):
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    result = runner.invoke(app, ["score", str(path)])
    assert result.exit_code == 1
    assert message in result.stderr
    assert str(path) in result.stderr or "p.jsonl:1" in result.stderr


def test_missing_file_bad_bytes_and_doubled_ids(tmp_path):
    result = runner.invoke(app, ["score", str(tmp_path / "none.jsonl")])
    assert result.exit_code == 1
    assert "cannot be read" in result.stderr
    (tmp_path / "latin.jsonl").write_bytes(b'{"words": ["\xe9"]}')
    with pytest.raises(DataError, match="UTF-8"):
        read_predictions(tmp_path / "latin.jsonl")
    path = write_lines(tmp_path / "p.jsonl", [our_row(1), our_row(1)])
    with pytest.raises(DataError, match="1 x id that stands twice"):
        read_predictions(path)


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(our_row()), encoding="utf-8-sig")
    assert read_predictions(path).predictions[0].num_correct == 1
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert read_predictions(path).predictions[0].num_correct == 1
    seen = tmp_path / "seen.json"
    seen.write_text('["city"]', encoding="utf-8-sig")
    assert _seen(seen) == ("city",)


def test_damaged_files_and_endless_brackets_are_named(data, tmp_path):
    whole = gzip.compress(b"{}")
    path = tmp_path / "p.jsonl.gz"
    for content in (whole[:-9], whole[:10] + b"\xff" + whole[11:]):  # the end, the kind of block
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"p.jsonl.gz: cannot be read"):
            read_predictions(path)
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(DataError, match=r"p.jsonl.gz:1: is not JSON"):
        read_predictions(path)
    corpus = tmp_path / "data" / "crossner_ai" / "dev.jsonl.gz"
    whole = corpus.read_bytes()
    header = 10 + len("dev.jsonl") + 1
    for content in (whole[:-9], whole[:header] + b"\xff" + whole[header + 1 :], b"not packed"):
        corpus.write_bytes(content)
        result = runner.invoke(app, ["score", str(path), "--gold", "crossner_ai:dev"])
        assert result.exit_code == 1
        assert f"{corpus}:" in result.stderr
        assert "cannot be unpacked" in result.stderr
    corpus.write_bytes(gzip.compress(b"[" * 100_000))
    with pytest.raises(DataError, match=r"dev.jsonl.gz:1: "):
        read_set("crossner_ai", "dev")


def test_gold_without_ids_is_matched_by_its_number(tmp_path):
    gold = [Example.from_tags(["in", city], ["O", "B-city"]) for city in ("Paris", "Rome")]
    rows = [{"id": str(n), "predicted": ["O", "B-city"]} for n in range(2)]
    found = read_predictions(write_lines(tmp_path / "p.jsonl", rows), gold=gold)
    assert len(found.predictions) == 2
    assert not found.problems.errors
    twice = [dataclasses.replace(example, id="a") for example in gold]
    rows = [{"id": "a", "predicted": ["O", "B-city"]}]
    with pytest.raises(DataError, match="1 x gold id that stands twice"):
        read_predictions(write_lines(tmp_path / "q.jsonl", rows), gold=twice)


def test_several_files_match_their_gold_together(tmp_path):
    rows = [{"id": name, "words": ["in", "Paris"], "gold": ["O", "B-city"]} for name in "ab"]
    tags = [{"id": name, "tokens": ["in", "Paris"], "labels": ["O", "B-city"]} for name in "ab"]
    gold = write_lines(tmp_path / "gold.jsonl", tags)
    paths = [
        write_lines(tmp_path / f"{row['id']}.jsonl", [{"id": row["id"], "predicted": row["gold"]}])
        for row in rows
    ]
    for lenient in ([], ["--lenient"]):
        have = run_json("score", *paths, "--gold", gold, *lenient, "--json")
        assert have["average"]["strict"]["f1"] == 1
        assert have["average"]["strict"]["support"] == 2
    with pytest.raises(DataError, match=r"1 x gold sentence without a prediction \('b'\)"):
        read_predictions(paths[0], gold=[Example.from_tags(["Bonn"], ["O"], id=n) for n in "ab"])


def test_a_sentence_counts_once_in_several_files(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", [our_row(1), our_row(2)])
    again = write_lines(tmp_path / "q.jsonl", [our_row(2), our_row(3)])
    with pytest.raises(DataError, match="1 x id that stands twice in its corpus") as caught:
        read_predictions(path, again)
    assert "(q.jsonl:1: '2')" in str(caught.value)
    assert f"in {path}, {again}" in str(caught.value)
    assert len(read_predictions(path, again, is_lenient=True).predictions) == 3
    result = runner.invoke(app, ["score", str(path), str(tmp_path / "." / "p.jsonl")])
    assert result.exit_code == 1
    assert "p.jsonl: is given 2 times" in result.stderr
    empty = write_lines(tmp_path / "empty.jsonl", [])
    with pytest.raises(DataError, match=r"empty.jsonl: has no predictions"):
        read_predictions(path, empty)


def test_ids_that_are_null_are_none(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", [{**our_row(1), "id": None}] * 2)
    assert len(read_predictions(path).predictions) == 2


def test_odd_but_readable_things_are_noted(tmp_path):
    words = ["in", "New", "York"]
    rows = [
        our_row(0, gold=["O", "I-city", "I-city"], predicted=["O", "S-city", "O"]),
        our_row(1, predicted=[[1, 3, "town", math.nan]]),
        our_row(2, gold=[], predicted=[]),
    ]
    path = write_lines(tmp_path / "p.jsonl", rows)
    have = read_predictions(path)
    lines = "\n".join(have.problems.lines())
    assert "1 x gold entity that starts with I- (all do: IOB1), read as such" in lines
    assert "1 x predicted tag of BIOES or BILOU, read as such" in lines
    assert "1 x score that is missing or not a number" in lines
    assert "1 x label 'town' is predicted but never gold" in lines
    assert have.predictions[0].gold == (Span(1, 3, "city"),)
    assert have.predictions[0].predicted == (Span(1, 2, "city"),)
    empty = write_lines(tmp_path / "e.jsonl", [our_row(gold=[], words=words, predicted=[])])
    assert "without any gold entity" in "".join(read_predictions(empty).problems.lines())
    assert run_json("score", empty, "--json")["average"]["strict"]["f1"] == 0


def test_dropped_labels_and_bad_gold_that_is_left_out(tmp_path):
    rows = [
        our_row(0, gold=[[0, 1, "Misc"], [1, 3, "city"]], predicted=[[0, 1, "misc", 0.5]]),
        our_row(1, gold=["O"]),
    ]
    path = write_lines(tmp_path / "p.jsonl", rows)
    have = read_predictions(path, drop=["MISC"], is_lenient=True)
    assert have.predictions == [
        Prediction(["in", "New", "York"], (Span(1, 3, "city"),), (), (), "0", "made_up")
    ]
    assert (
        "1 x gold with another number of tags than words; the sentence is left out"
        in (have.problems.lines()[0])
    )


def test_brackets_in_names_are_no_markup(tmp_path):
    rows = [our_row(corpus="wiki[/en]"), our_row(corpus="wiki[en]")]
    path = write_lines(tmp_path / "p[old].jsonl", rows)
    for args in (["score", path], ["compare", path, path]):
        result = runner.invoke(app, [*map(str, args)])
        assert result.exit_code == 0, result.output
        assert all(x in result.stdout for x in ("p[old].jsonl", "wiki[/en]", "wiki[en]"))
    with _progress() as show:
        show("wiki[/en]", 1, 2)


def test_half_surrogates_are_written_as_json_names_them(tmp_path):
    row = our_row(words=["in", "New", "Yor\ud800k"], predicted=[])
    path, report, folder = write_lines(tmp_path / "p.jsonl", [row]), tmp_path / "r.html", tmp_path
    have = score_files([path], outputs=Outputs(report, folder / "out"))
    assert "Yor\\ud800k" in report.read_text(encoding="utf-8")
    case = json.loads((folder / "out" / "analysis.json").read_text(encoding="utf-8"))
    assert "Yor\ud800k" in case["errors"]["cases"]["missed"][0]["gold"]
    assert {x.name for x in (folder / "out").iterdir()} == {"analysis.json", "scores.json"}
    write_predictions(tmp_path / "q.jsonl", have.predictions)
    assert read_predictions(tmp_path / "q.jsonl").predictions == have.predictions
    example = Example.from_tags(["in", "Yor\ud800k"], ["O", "B-city"])
    task = Task("mine", [example], LabelSet.of(["city"]))
    for _ in range(2):
        run = run_tasks(ScriptedTagger, [task], tmp_path / "run", {})
        assert run.predictions["mine"][0].num_correct == 1
    assert run.num_resumed == 1


def test_wrong_options_are_named(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", [our_row()])
    for args, message in (
        (["--metric", "f7"], "was: 'f7'"),
        (["--alignment", "worst"], "was: 'worst'"),
        (["--unknown", "guess"], "was: 'guess'"),
    ):
        result = runner.invoke(app, ["score", str(path), *args])
        assert result.exit_code == 1
        assert message in result.stderr


# --------------------------------------------------------------------------------------------------
# Compare


def test_compare_matches_sentences_by_id(tmp_path):
    good = [our_row(k) for k in range(20)]
    bad = [our_row(k, [] if k % 2 else None) for k in range(20)]
    first = write_lines(tmp_path / "a.jsonl", bad)
    second = write_lines(tmp_path / "b.jsonl", good[::-1])
    have = run_json("compare", first, second, "--metric", "strict,token", "--json")
    strict = have["corpora"]["made_up"]["strict"]
    assert strict["second"] == 1
    assert strict["only_second"] == 10
    assert strict["p_mcnemar"] < 0.01
    assert have["average"]["token"]["low"] > 0
    table = runner.invoke(app, ["compare", str(first), str(second)])
    assert "difference" in table.stdout
    third = write_lines(tmp_path / "c.jsonl", good[:5])
    result = runner.invoke(app, ["compare", str(first), str(third)])
    assert result.exit_code == 1
    assert "15 sentences are only in the first" in result.stderr


# --------------------------------------------------------------------------------------------------
# Evaluate


class ScriptedTagger:
    """Finds words in capitals, labels them with the first label, and can fail on the way."""

    def __init__(self, fail_after=None):
        self.fail_after = fail_after
        self.num_seen = 0
        self.asked = []

    def pipe(self, inputs, *, labels, threshold):
        for example in inputs:
            if self.fail_after is not None and self.num_seen >= self.fail_after:
                raise KeyboardInterrupt
            self.num_seen += 1
            self.asked.append(labels)
            entities = tuple(
                Entity(word, labels.names[0], a, b, 0.4 + 0.5 * (len(word) > 4))
                for word, (a, b) in zip(example.words, example.offsets, strict=True)
                if word[0].isupper()
            )
            kept = tuple(e for e in entities if e.score >= (threshold or 0))
            yield Document(example.text, kept)


@pytest.fixture
def data(tmp_path, monkeypatch):
    root = tmp_path / "data"
    for name in ("crossner_ai", "mine"):
        (root / name).mkdir(parents=True)
        (root / name / "labels.json").write_text(json.dumps({"m": "miscellaneous", "c": "city"}))
        with gzip.open(root / name / "dev.jsonl.gz", "wt") as file:
            for k in range(12):
                row = {
                    "tokens": ["in", "Paris" if k % 3 else "Rome", "and", "x"],
                    "labels": ["O", "B-city", "O", "B-miscellaneous"],
                }
                file.write(json.dumps(row) + "\n")
    (root / "sets.json").write_text("{}")
    cards = ["city", "a large town", [], "place"]
    (root / "label_cards.jsonl").write_text(json.dumps(cards) + "\n")
    monkeypatch.setenv("NOMINA_DATA", str(root))
    return root


def test_evaluate_drops_misc_as_the_protocol_says(data, tmp_path):
    plan = EvaluationPlan(data=("crossner_ai:dev", "mine:dev"), metrics=("strict",))
    tagger = ScriptedTagger()
    have = evaluate_model(plan, Outputs(folder=tmp_path / "run"), load=lambda name: tagger)
    assert have.evaluation.corpora["crossner_ai"]["strict"].f1 == 1
    assert have.evaluation.corpora["mine"]["strict"].f1 == 0  # asks for the first label
    assert {labels.names for labels in tagger.asked[:12]} == {("city",)}
    assert any("12 entities; protocol zero-shot" in note for note in have.notes)
    assert have.to_dict()["model"] == "default"
    kept = EvaluationPlan(data=("crossner_ai:dev",), protocol="zero-shot-kept")
    have = evaluate_model(kept, Outputs(folder=tmp_path / "r2"), load=lambda name: tagger)
    assert have.evaluation.corpora["crossner_ai"]["strict"].support == 24


def test_evaluate_asks_for_the_labels_of_a_file(data, tmp_path):
    path = tmp_path / "labels.toml"
    path.write_text('City = { definition = "a town", examples = ["Rome"] }\nmiscellaneous = ""\n')
    outputs, tagger = Outputs(folder=tmp_path / "run"), ScriptedTagger()
    plan = EvaluationPlan(data=("mine:dev",), metrics=("strict",), labels=str(path))
    have = evaluate_model(plan, outputs, load=lambda name: tagger)
    assert have.evaluation.corpora["mine"]["strict"].support == 24
    (asked,) = set(tagger.asked)
    assert asked == read_labels(path)  # definitions and examples, too; not the cards'
    plain = dataclasses.replace(plan, has_definitions=False)
    evaluate_model(plain, outputs, load=lambda name: tagger)
    assert tagger.asked[-1] == LabelSet.of(["City", "miscellaneous"])
    # What the protocol drops is neither asked for nor missing from the file.
    dropping = dataclasses.replace(plan, data=("crossner_ai:dev",))
    evaluate_model(dropping, outputs, load=lambda name: tagger)
    assert tagger.asked[-1].names == ("City",)
    path.write_text('person = ""\nCity = ""\n')
    with pytest.raises(DataError, match=r"labels not in .*, but in mine:dev: 'miscellaneous'. Add"):
        evaluate_model(plan, outputs, load=lambda name: tagger)


def test_a_killed_evaluation_goes_on_where_it_stopped(data, tmp_path):
    plan = EvaluationPlan(data=("crossner_ai:dev", "mine:dev"), drop=("miscellaneous",))
    outputs = Outputs(folder=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        evaluate_model(plan, outputs, load=lambda name: ScriptedTagger(fail_after=15))
    path = tmp_path / "run" / "predictions" / "mine.jsonl"
    path.write_text(path.read_text() + '{"half a li')
    seen = []
    rest = ScriptedTagger()
    have = evaluate_model(
        plan, outputs, load=lambda name: rest, progress=lambda *step: seen.append(step)
    )
    assert rest.num_seen == 24 - 15
    assert any("15 sentences were taken" in note for note in have.notes)
    assert seen[0] == ("crossner_ai", 12, 12)
    assert seen[-1] == ("mine", 12, 12)
    whole = evaluate_model(plan, Outputs(folder=tmp_path / "r2"), load=lambda n: ScriptedTagger())
    assert have.evaluation == whole.evaluation
    again = ScriptedTagger()  # a finished run is done anew
    evaluate_model(plan, outputs, load=lambda name: again)
    assert again.num_seen == 24


def test_an_unfinished_run_of_other_settings_is_not_touched(data, tmp_path):
    outputs = Outputs(folder=tmp_path / "run")
    plan = EvaluationPlan(data=("mine:dev",))
    with pytest.raises(KeyboardInterrupt):
        evaluate_model(plan, outputs, load=lambda name: ScriptedTagger(fail_after=3))
    other = EvaluationPlan(data=("mine:dev",), threshold=0.5)
    with pytest.raises(DataError, match=r"threshold: None -> 0\.5"):
        evaluate_model(other, outputs, load=lambda name: ScriptedTagger())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="no evaluation"):
        evaluate_model(plan, Outputs(folder=tmp_path / "full"), load=lambda n: ScriptedTagger())


def test_limits_thresholds_definitions_and_temperature(data, tmp_path):
    tagger = ScriptedTagger()
    plan = EvaluationPlan(
        data=("crossner_ai:dev",), limit=5, threshold=0.5, has_definitions=True, seed=3
    )
    have = evaluate_model(plan, Outputs(folder=tmp_path / "a"), load=lambda name: tagger)
    assert tagger.num_seen == 5
    assert tagger.asked[0][0].definition == "a large town"
    same = evaluate_model(plan, Outputs(folder=tmp_path / "b"), load=lambda name: ScriptedTagger())
    assert [p.id for p in have.predictions] == [p.id for p in same.predictions]
    model = tmp_path / "model"
    model.mkdir()
    both = EvaluationPlan(str(model), ("mine:dev",), protocol="zero-shot", fits_temperature=True)
    with pytest.raises(DataError, match="right and wrong"):
        evaluate_model(both, Outputs(folder=tmp_path / "c"), load=lambda name: ScriptedTagger())
    half = EvaluationPlan(str(model), ("crossner_ai:dev", "mine:dev"), fits_temperature=True)
    have = evaluate_model(half, Outputs(folder=tmp_path / "d"), load=lambda name: ScriptedTagger())
    assert Calibration.load(model).num_entities == 24
    assert any("Temperature" in note for note in have.notes)
    with pytest.raises(DataError, match="limit"):
        EvaluationPlan(limit=0)
    with pytest.raises(DataError, match="threshold"):
        EvaluationPlan(threshold=2)


def test_sentences_with_label_sets_of_their_own_are_asked_together():
    sets = [LabelSet.of(["x"]), LabelSet.of(["y"])]
    rows = [Example.from_tags([f"W{k}"], ["O"], labels=sets[k % 2]) for k in range(6)]
    task = Task("t", rows, LabelSet.of(["z"]), "t:dev").grouped()
    assert [row.words[0] for row in task.examples] == ["W0", "W2", "W4", "W1", "W3", "W5"]
    assert task.source == "t:dev"
    defined = task.defined({"y": "a letter"})
    assert defined.examples[-1].labels is not None
    assert defined.examples[-1].labels[0].definition == "a letter"


def test_unseen_labels_alone_are_asked_for(data, tmp_path):
    seen = tmp_path / "seen.txt"
    plan = EvaluationPlan(data=("mine:dev",), protocol="unseen-labels")
    with pytest.raises(DataError, match="--seen-labels"):
        evaluate_model(plan, Outputs(folder=tmp_path / "a"), load=lambda name: ScriptedTagger())
    for text in ("Miscellaneous\n", '["miscellaneous"]', '{"labels": ["miscellaneous"]}'):
        seen.write_text(text)
        outputs = Outputs(folder=tmp_path / "b", seen_labels=_seen(seen))
        have = evaluate_model(plan, outputs, load=lambda name: ScriptedTagger())
        assert have.evaluation.average["strict"].f1 == 1
    assert list(have.analysis.by_seen) == ["unseen"]


def test_the_evaluate_command(data, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "_load", lambda name, *_: ScriptedTagger())
    monkeypatch.chdir(tmp_path)
    args = ["evaluate", "--model", "m", "--data", "crossner_ai:dev", "mine:dev", "--metric", "all"]
    have = run_json(*args, "--json", "--limit", "4", "--report", "r.html")
    assert set(have["corpora"]) == {"crossner_ai", "mine"}
    assert have["model"] == "m"
    assert (tmp_path / "r.html").is_file()
    folder = tmp_path / "nomina-evaluation" / "m"
    assert json.loads((folder / "scores.json").read_text()) == have
    saved = folder / "predictions" / "mine.jsonl"
    again = run_json("score", saved, "--metric", "strict", "--json")
    f1 = have["corpora"]["mine"]["strict"]["f1"]
    assert again["corpora"]["mine"]["strict"]["f1"] == f1
    result = runner.invoke(app, ["evaluate", "--data", "nosuch:dev"])
    assert result.exit_code == 1
    assert "nosuch" in result.stderr


def test_evaluations_name_how_they_decode(data, tmp_path, monkeypatch):
    asked = []

    def load(name, **options):
        asked.append(options)
        return ScriptedTagger()

    monkeypatch.setattr("nomina.extractor.load", load)
    args = ["--data", "mine:dev", "--metric", "strict", "--json", "--output"]
    run_json("evaluate", *args, tmp_path / "free", "--decoding", "free")
    run_json("evaluate", *args, tmp_path / "beams", "--beams", "4", "--workers", "2")
    assert asked == [
        {"decoding": "free", "num_beams": 1, "num_workers": 1},
        {"decoding": "grounded", "num_beams": 4, "num_workers": 2},
    ]
    settings = json.loads((tmp_path / "free" / "settings.json").read_text())
    assert settings["decoding"] == "free"
    with pytest.raises(DataError, match="grounded decoding, was given with --decoding free"):
        EvaluationPlan(decoding="free", fits_temperature=True)


def test_entities_inside_words_are_widened_and_counted():
    example = Example.from_tags(["in", "Paris"], ["O", "O"], id="1")
    document = Document("in Paris", (Entity("ari", "x", 4, 7, 0.5), Entity(" ", "x", 2, 3, 0.5)))
    problems = Problems()
    assert to_words(example, document, problems) == ((Span(1, 2, "x"),), (0.5,))
    assert problems.notes.total() == 2
    assert file_name("a/b c:dev") == "a_b_c_dev"


def test_scoring_loads_no_torch(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", [our_row()])
    code = (
        "import sys, pathlib\n"
        "from nomina.scoring import score_files\n"
        f"score_files([pathlib.Path({str(path)!r})], ['all'])\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert score_files([path]).evaluation.average["strict"].f1 == 1
