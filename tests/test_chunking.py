import doctest
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nomina.chunking import Window, merge_spans, split_sentences, split_text
from nomina.entities import Span, split_words
from nomina.errors import TextError

PIECES = [
    "Paris",
    "is big",
    ". ",
    "! ",
    "\n",
    "\n\n",
    ", ",
    "東京",
    "。",
    "ไทย",
    " ",
    "Dr. ",
    "3.",
    "؟ ",
]
texts = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)


def check_windows(windows, costs, max_words, context):
    """The contract: windows tile the words, keep to the budget and show what was asked for."""
    num_words = len(costs)
    assert [w.start for w in windows] == [0, *(w.end for w in windows)][: len(windows)]
    assert (windows[-1].end if windows else 0) == num_words
    for w in windows:
        assert 0 <= w.context_start <= w.start < w.end <= w.context_end <= num_words
        assert sum(costs[w.start : w.end]) <= max_words or w.end - w.start == 1
        assert sum(costs[w.context_start : w.start]) <= context
        assert sum(costs[w.end : w.context_end]) <= context
        # ... and not less context than fits
        assert w.context_start == 0 or sum(costs[w.context_start - 1 : w.start]) > context
        assert w.context_end == num_words or sum(costs[w.end : w.context_end + 1]) > context


@calm
@given(texts, st.integers(1, 12), st.integers(0, 5))
def test_windows_tile_every_word_of_any_text(text, max_words, context):
    offsets = split_words(text)
    windows = split_text(text, offsets, max_words, context)
    check_windows(windows, [1] * len(offsets), max_words, context)


@calm
@given(texts, st.data())
def test_windows_keep_to_costs(text, data):
    offsets = split_words(text)
    costs = data.draw(st.lists(st.integers(0, 9), min_size=len(offsets), max_size=len(offsets)))
    check_windows(split_text(text, offsets, 10, 4, costs), costs, 10, 4)


@calm
@given(texts)
def test_sentences_tile_every_word(text):
    offsets = split_words(text)
    sentences = split_sentences(text, offsets)
    assert [i for a, b in sentences for i in range(a, b)] == list(range(len(offsets)))


def pieces(text, max_words):
    offsets = split_words(text)
    return [
        text[offsets[w.start][0] : offsets[w.end - 1][1]]
        for w in split_text(text, offsets, max_words, 0)
    ]


@pytest.mark.parametrize(
    ("text", "max_words", "want"),
    [
        (
            "One two.\n\nThree four. Five six seven",
            7,
            ["One two.\n\nThree four.", "Five six seven"],
        ),
        ("One two three.\n\nFour five. Six", 7, ["One two three.", "Four five. Six"]),
        ("one two three, four five six seven", 6, ["one two three,", "four five six seven"]),
        ("one two three four five", 2, ["one two", "three four", "five"]),
        ("one two three\nfour five six", 4, ["one two three", "four five six"]),
        ("東京は大きい。寒い。", 8, ["東京は大きい。", "寒い。"]),
        ("ab cd don't", 4, ["ab cd", "don't"]),  # not inside a run without spaces
        ("東京都千代田区", 3, ["東京都", "千代田", "区"]),  # ... unless there is nothing else
    ],
)
def test_cuts_are_made_at_the_best_place(text, max_words, want):
    assert pieces(text, max_words) == want


@pytest.mark.parametrize(
    "sentences",
    [
        ["He saw Mr. Smith.", "Then he left."],
        ["It cost 3.50 in 1999.", "4 people came."],
        ["Am 3. Oktober kam Prof. Müller.", "Es war kalt."],
        ["J. R. R. Tolkien wrote it in 1937.", "It sold well."],
        ['"Stop!" he said.', "She did not."],
        ["Really?!", "Yes...", "No…"],
        ["He works for example.com today.", "Good."],
        ["(He left.)", "She stayed."],
        ["यह एक वाक्य है।", "यह दूसरा है।"],
        ["هل هذا صحيح؟", "نعم.", "یہ اردو ہے۔"],
        ["Սա նախադասություն է։", "Եվ սա։"],
        ["ይህ ነው።", "ያ ነው።"],
        ["ဒါက စာကြောင်း။", "နောက်တစ်ခု။"],
        ["all lower case.", "no capitals at all.", "still found."],
    ],
)
def test_sentences_of_many_scripts(sentences):
    text = " ".join(sentences)
    offsets = split_words(text)
    found = [text[offsets[a][0] : offsets[b - 1][1]] for a, b in split_sentences(text, offsets)]
    assert found == sentences


def test_chinese_and_japanese_need_no_space():
    text = "他说：“你好。”然后走了。東京です！寒い?はい."
    offsets = split_words(text)
    found = [text[offsets[a][0] : offsets[b - 1][1]] for a, b in split_sentences(text, offsets)]
    assert found == ["他说：“你好。”", "然后走了。", "東京です！", "寒い?", "はい."]


def test_no_words_no_windows():
    assert split_text(" \n ", [], 5, 1) == []
    assert split_sentences("", []) == []


@pytest.mark.parametrize(("max_words", "context"), [(0, 1), (-1, 0), (3, -1)])
def test_bad_budget_is_named(max_words, context):
    with pytest.raises(TextError, match=f"max_words={max_words}, context={context}"):
        split_text("a b", [(0, 1), (2, 3)], max_words, context)
    with pytest.raises(TextError, match="1 for 2 words"):
        split_text("a b", [(0, 1), (2, 3)], 2, 1, costs=[1])


@pytest.mark.parametrize(
    "text",
    [
        "The man from U.N. paid 3.5 million, they said. " * 2_500,
        "word " * 50_000,
        "x" * 300_000,
        "\n" * 150_000 + "x" + " " * 150_000,
        "." * 100_000,
        '".' * 50_000,
        "東" * 50_000,
    ],
    ids=["prose", "no stops", "one run", "blank", "dots", "quotes", "chinese"],
)
def test_time_is_linear(text):
    offsets = split_words(text)
    start = time.process_time()
    windows = split_text(text, offsets, 100, 20)
    taken = time.process_time() - start
    assert windows[-1].end == len(offsets)
    assert taken < 2, f"{taken:.1f} s"  # 0.01 to 0.2 s here; quadratic code takes minutes


def test_entities_belong_to_the_window_of_their_first_word():
    windows = [Window(0, 3, 0, 5), Window(3, 6, 1, 6)]
    city = (Span(2, 4, "city"), 0.9)
    assert merge_spans(windows, [[city], [(Span(2, 4, "city"), 0.5)]]) == [city]
    # The second window sees a tail of the first's entity as one of its own: the probable one stays.
    tail = (Span(3, 4, "person"), 0.95)
    assert merge_spans(windows, [[city], [tail]]) == [tail]
    assert merge_spans(windows, [[city], [(Span(3, 4, "person"), 0.9)]]) == [city]
    # What loses to one that loses itself is not lost.
    windows = [Window(0, 6, 0, 12), Window(6, 12, 0, 12)]
    first, second = (Span(6, 7, "x"), 0.5), (Span(8, 9, "x"), 0.9)
    assert merge_spans(windows, [[(Span(5, 12, "x"), 0.6)], [first, second]]) == [first, second]


@calm
@given(st.integers(1, 30), st.integers(1, 7), st.integers(0, 4), st.data())
def test_merged_spans_never_overlap_and_whole_gold_comes_through(n, size, context, data):
    text = " ".join("w" * n)
    windows = split_text(text, split_words(text), size, context)
    cuts = sorted(data.draw(st.sets(st.integers(0, n), min_size=2 if n > 1 else 0)))
    gold = [Span(a, b, "x") for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    seen = [
        [(s, 1.0) for s in gold if w.context_start <= s.start and s.end <= w.context_end]
        for w in windows
    ]
    merged = [s for s, _ in merge_spans(windows, seen)]
    owner = {i: w for w in windows for i in range(w.start, w.end)}
    assert merged == [s for s in gold if s.end <= owner[s.start].context_end]


@pytest.mark.parametrize("name", ["formats.md", "long-documents.md"])
def test_the_documentation_is_true(name, tmp_path, monkeypatch):
    root = Path(__file__).parent.parent
    (tmp_path / "tests").symlink_to(root / "tests")  # the page writes files beside it
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testfile(str(root / "docs" / name), module_relative=False)
    assert tried > 3
    assert failed == 0
