"""Batches ask what decoding asks, cost what they should, and can be taken up anywhere."""

from __future__ import annotations

import itertools

import pytest
import torch

from nomina.batches import Batches, Place, by_tokens, collate, encode, pack, row_length
from nomina.entities import Example, LabelSet
from nomina.errors import RecipeError
from nomina.mixture import Mixture, MixtureConfig, Question

ROWS = [
    Example.from_tags(["in", "Oslo", "now"], ["O", "B-city", "O"]),
    Example.from_tags(["Anna", "Berg", "spoke"], ["B-person", "I-person", "O"]),
    Example.from_tags(["nothing"], ["O"]),
]
LABELS = LabelSet.of(["city", "person"])
PLAIN = {name: 0.0 for name in vars(MixtureConfig()) if name.startswith("p_")}


def mixture(**settings):
    return Mixture({"mine": ROWS}, {"mine": LABELS}, None, MixtureConfig(**{**PLAIN, **settings}))


def questions(model, *labels):
    return [encode(model, Question(row, labels or LABELS)) for row in ROWS]


def test_the_right_choice_stands_first(build_model):
    item = questions(build_model("llama"))[1]
    batch = collate([item], 0)
    for index, ids in zip(batch["choice_index"], batch["choice_ids"], strict=True):
        assert batch["input_ids"][0, index + 1] == ids[0]


def test_a_packed_row_has_each_sentence_as_if_alone(build_model):
    items = questions(build_model("llama"))
    (row,) = pack(items, 500)
    assert row_length(row) == sum(map(len, items)) - 2 * len(items[0].prefix_ids)
    batch = collate([row], 0)
    for number, item in enumerate(row, 1):
        alone = collate([item], 0)
        mine = (batch["segments"][0] == 0) | (batch["segments"][0] == number)
        assert batch["input_ids"][0][mine].tolist() == alone["input_ids"][0].tolist()
        assert batch["positions"][0][mine].tolist() == list(range(len(item)))
        assert batch["target_mask"][0][mine].tolist() == alone["target_mask"][0].tolist()
    for index, ids in zip(batch["choice_index"], batch["choice_ids"], strict=True):
        assert batch["input_ids"][0, index + 1] == ids[0]
    assert int(batch["num_questions"]) == 3


def test_rows_are_packed_by_prompt_and_never_too_long(build_model):
    model = build_model("llama")
    other = LabelSet.of(["person", "city"])
    items = questions(model) * 4 + [encode(model, Question(row, other)) for row in ROWS]
    rows = pack(items, 130)
    assert sorted(len(x) for row in rows for x in row) == sorted(map(len, items))
    assert all(row_length(row) <= 130 for row in rows)
    assert all(len({tuple(x.prefix_ids) for x in row}) == 1 for row in rows)
    assert sum(map(row_length, rows)) < sum(map(len, items))


def test_what_has_no_prefix_is_not_packed(build_model):
    items = questions(build_model("llama", "gner"))
    assert [len(row) for row in pack(items, 10_000)] == [1, 1, 1]


@pytest.mark.parametrize("is_packed", [False, True])
def test_batches_keep_to_their_budget(build_model, is_packed):
    model = build_model("llama")
    batches = Batches(model, mixture(group=4, p_all_labels=1), 300, 0, 150, 40, is_packed)
    sizes = []
    for batch in itertools.islice(iter(batches), 20):
        assert batch["input_ids"].numel() <= 300
        sizes.append(int(batch["num_questions"]))
    assert ("segments" in batch) == is_packed
    assert [len(g) for g in by_tokens([[x] for x in questions(model)], 1)] == [1, 1, 1]


def test_a_stream_goes_on_behind_any_batch(build_model):
    model = build_model("llama")
    config = {"group": 4, "p_all_labels": 0.7, "p_drop_present": 0.3}

    def stream(rank=0, size=1, after=None):
        made = Batches(
            model, mixture(**config), 200, 3, 150, 9, True, rank=rank, size=size, after=after
        )
        return iter(made)

    whole = list(itertools.islice(stream(), 14))
    assert [int(batch["place"][0]) for batch in whole] == list(range(14))
    for at in (0, 4, 9):
        rest = stream(after=Place(*whole[at]["place"].tolist()))
        for want, have in zip(whole[at + 1 :], rest, strict=False):
            assert want.keys() == have.keys()
            assert all(torch.equal(want[key], have[key]) for key in want)
    turns = [stream(0, 2), stream(1, 2)]
    for number, want in enumerate(whole):
        assert torch.equal(next(turns[number % 2])["input_ids"], want["input_ids"])
    rest = stream(1, 2, Place(*whole[4]["place"].tolist()))
    assert torch.equal(next(rest)["input_ids"], whole[7]["input_ids"])


def test_questions_that_are_all_too_long_are_an_error(build_model):
    batches = Batches(build_model("llama"), mixture(), 300, max_length=5)
    with pytest.raises(RecipeError, match="longer than max_length = 5"):
        next(iter(batches))
