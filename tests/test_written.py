"""The passages that the default model trains on are read as they are marked."""

from __future__ import annotations

from random import Random

import pytest
from written import FOLDER, check, parse, record

TEXT = """# a comment
## wine auctions
- grape (grape variety): the variety a wine is made of
- winery (wine estate, producer) < organization: an estate that makes wine
- organization: a firm that makes no wine
{{Sotheby's|organization}} sold {{Château Palmer|winery}},\\nmostly {{Merlot|grape}}.
## [{{1.0|release}}] is no heading
"""


def test_a_task_has_labels_with_other_names_parents_and_definitions(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text(TEXT, "utf-8")
    (task,), wrong = parse(path)
    assert task.name == "wine auctions"
    assert list(task.definitions) == ["grape", "winery", "organization"]
    assert task.others["winery"] == ["wine estate", "producer"]
    assert task.parents == {"winery": "organization"}
    text, spans = task.passages[0]
    assert text == "Sotheby's sold Château Palmer,\nmostly Merlot."
    assert [(text[a:b], label) for a, b, label in spans] == [
        ("Sotheby's", "organization"), ("Château Palmer", "winery"), ("Merlot", "grape"),
    ]  # fmt: skip
    assert wrong == ["x.txt:7: label 'release' is not in the set of its task"]


def test_what_a_label_held_goes_to_its_broader_label_or_to_nothing(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text(TEXT, "utf-8")
    (task,), _ = parse(path)
    seen = set()
    for seed in range(300):
        row = record(task, *task.passages[0], Random(seed))
        asked = set(row["label_set"])
        assert all(e["label"] in asked for e in row["entities"])
        assert all(row["text"][e["start"] : e["end"]] == e["text"] for e in row["entities"])
        names = {e["text"]: e["label"] for e in row["entities"]}
        definitions = row["label_set"]
        if not asked & {"winery", "wine estate", "producer"}:
            assert names["Château Palmer"] == "organization"
            assert definitions["organization"] == ""  # it is no longer one "that makes no wine"
        seen.add("Merlot" in names)
    assert seen == {True, False}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_the_passages_are_well_marked(path):
    tasks, wrong = parse(path)
    assert wrong == []
    assert [line for line in check(tasks) if "not marked" not in line] == []
