"""`nomina.pipeline` beside a real token-classification pipeline: results of the same shape."""

from __future__ import annotations

import itertools

import pytest
from torch.utils.data import Dataset

import nomina
from nomina.errors import LabelError, ModelError, TextError
from nomina.integrations.transformers import EntityPipeline

LABELS = ["actor", "year", "genre"]
TEXT = "did george clooney make a musical in the 1980s"


@pytest.fixture(scope="module")
def ours(tagger):
    return nomina.pipeline(tagger, LABELS)


@pytest.fixture(scope="module")
def theirs():
    """The real pipeline over a one-layer BERT that tags at random."""
    import torch
    import transformers as hf
    from tokenizers import Tokenizer, models, pre_tokenizers

    ids = {w: i for i, w in enumerate(["[PAD]", "[UNK]", *dict.fromkeys(TEXT.split())])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ["O", "B-PER", "I-PER", "B-LOC"]
    config = hf.BertConfig(
        vocab_size=len(ids),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    torch.manual_seed(3)
    return hf.pipeline(
        "token-classification",
        model=hf.BertForTokenClassification(config).eval(),
        tokenizer=hf.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
        ),
        aggregation_strategy="simple",
    )


class Texts(Dataset):
    """A dataset of torch without `__iter__` or an end of its own, like transformers' KeyDataset."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return [TEXT, f"{TEXT} ?", TEXT][index]


def shape(result):
    """Types all the way down, without the values; which entities are found does not matter."""
    if isinstance(result, dict):
        return {key: type(value) for key, value in result.items()}
    kinds = []
    for part in result:
        kind = shape(part)
        if kind not in kinds:
            kinds.append(kind)
    return [list, kinds]


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        (TEXT, {}),
        ([TEXT], {}),
        ([TEXT, TEXT], {"batch_size": 2}),
        (TEXT.split(), {"is_split_into_words": True}),
        ([TEXT.split()] * 2, {"is_split_into_words": True}),
    ],
)
def test_results_have_the_shape_of_the_real_ones(ours, theirs, inputs, options):
    have, expected = ours(inputs, **options), theirs(inputs, **options)
    assert shape(have) == shape(expected)
    assert type(have) is type(expected) is list
    assert len(have) == len(expected) or isinstance(inputs, str)


@pytest.mark.parametrize("make", [lambda: (t for t in [TEXT, TEXT]), Texts])
def test_streams_have_the_shape_of_the_real_ones(ours, theirs, make):
    have, expected = ours(make(), batch_size=2), theirs(make(), batch_size=2)
    assert not isinstance(have, list)  # transformers 5.0 makes a list of a generator itself
    have, expected = list(have), list(expected)
    assert len(have) == len(expected)
    assert shape(have) == shape(expected)


def test_values_are_the_taggers(ours, tagger):
    want = [(e.label, e.text, e.start, e.end) for e in tagger(TEXT, LABELS)]
    have = ours(TEXT)
    assert [(g["entity_group"], g["word"], g["start"], g["end"]) for g in have] == want != []
    assert [g["score"] for g in have] == pytest.approx([e.score for e in tagger(TEXT, LABELS)])
    assert [TEXT[g["start"] : g["end"]] for g in have] == [g["word"] for g in have]


def test_an_endless_stream_yields(ours):
    results = ours(f"george number {i}" for i in itertools.count())
    assert len(list(itertools.islice(results, 3))) == 3


def test_options_of_a_call(ours):
    every = ours(TEXT, threshold=0)
    sure = sorted(g["score"] for g in every)[len(every) // 2]
    assert len(ours(TEXT, threshold=float(sure))) < len(every)
    label = every[0]["entity_group"]
    assert label not in {g["entity_group"] for g in ours(TEXT, ignore_labels=[label])}
    assert {g["entity_group"] for g in ours(TEXT, labels=["city"])} == {"city"}
    assert ours(TEXT, aggregation_strategy="average", stride=2, num_workers=3) == ours(TEXT)
    joined = ours(["in", "1980", "george"], is_split_into_words=True, delimiter="_")[0]
    assert all("in_1980_george"[g["start"] : g["end"]] == g["word"] for g in joined)
    assert ours([]) == []


def test_it_loads_a_model_with_its_options(tiny_folder):
    ner = nomina.pipeline(str(tiny_folder), {"actor": "a person"}, batch_size=3, device=-1)
    assert isinstance(ner, EntityPipeline)
    assert ner.task == "token-classification"
    assert ner.tagger.engine.config.max_rows == 3
    assert ner.tagger.model.device.type == "cpu"
    assert [len(r) for r in ner([TEXT] * 5)] == [len(ner(TEXT))] * 5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, LabelError, "at least one"),
        ({"labels": LABELS, "aggregation_strategy": "none"}, TextError, "simple, first"),
        ({"labels": LABELS, "batch_size": 0}, TextError, "from 1, was: 0"),
        ({"labels": LABELS, "model": "./nowhere"}, ModelError, "no model"),
    ],
)
def test_bad_options_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        nomina.pipeline(**arguments)


@pytest.mark.parametrize("inputs", [None, 3, b"x", {"text": "x"}, [None], (3,)])
def test_what_is_no_text_is_named(ours, inputs):
    with pytest.raises(TextError, match=r"text must be|expected a text"):
        ours(inputs)


def test_the_threshold_is_checked_at_once(tagger):
    with pytest.raises(TextError, match="threshold"):
        EntityPipeline(tagger, LABELS, threshold=2)


def test_labels_to_ignore_are_spelled_in_any_way_and_checked(ours):
    text = "did george clooney make a musical in 1980"
    labels = [group["entity_group"] for group in ours(text)]
    assert "actor" in labels
    kept = [group["entity_group"] for group in ours(text, ignore_labels=["Actor", "O"])]
    assert kept == [label for label in labels if label != "actor"]
    for odd, message in (("actor", "a list of labels"), (["acter"], "'acter', which is not")):
        with pytest.raises(TextError, match=message):
            ours(text, ignore_labels=odd)


def test_options_of_loading_are_not_for_a_tagger(tagger):
    with pytest.raises(TextError, match="batch_size, dtype cannot be given with a tagger"):
        nomina.pipeline(tagger, ["a"], batch_size=1, dtype="float32")
