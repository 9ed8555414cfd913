"""Completions back onto words: the matchers against slow twins, and what models really write."""

import itertools
import random
import re
import time
import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomina.alignment import (
    AlignmentStatus,
    AlignmentSummary,
    align,
    gner_spans,
    match_hierarchically,
    nearest_label,
)
from nomina.completions import fold, read_pairs, read_plain_pairs
from nomina.entities import LabelSet, Span, join_words, tags_to_spans
from nomina.errors import FormatError, LabelError
from nomina.formats import Sentence, get_format, target
from nomina.subsequences import longest_common_subsequence, match_by_bits

# --------------------------------------------------------------------------------------------------
# Slow twins


def length_by_table(a, b):
    """LCS length by the textbook's table."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = row
        row = [0]
        for j, y in enumerate(b):
            row.append(before[j] + 1 if x == y else max(before[j + 1], row[j]))
    return row[-1]


def all_alignments(a, b):
    """Every set of increasing pairs of equal words, by brute force."""
    pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if a[i] == b[j]]

    def extend(chain, start):
        yield chain
        for index in range(start, len(pairs)):
            if not chain or (pairs[index][0] > chain[-1][0] and pairs[index][1] > chain[-1][1]):
                yield from extend([*chain, pairs[index]], index + 1)

    yield from extend([], 0)


def num_neighbours(pairs):
    return sum((i + 1, j + 1) == after for (i, j), after in itertools.pairwise(pairs))


def best_by_force(a, b):
    return max((len(pairs), num_neighbours(pairs)) for pairs in all_alignments(a, b))


def assert_is_alignment(pairs, a, b):
    assert all(a[i] == b[j] for i, j in pairs)
    assert all(p[0] < q[0] and p[1] < q[1] for p, q in itertools.pairwise(pairs))


few_words = st.lists(st.sampled_from("abc"), max_size=7)
some_words = st.lists(st.sampled_from("abcdefgh"), max_size=40)


@given(few_words, few_words)
@settings(max_examples=150, deadline=None)
def test_most_equal_words_and_then_most_neighbours(a, b):
    have = longest_common_subsequence(a, b)
    assert_is_alignment(have, a, b)
    assert (len(have), num_neighbours(have)) == best_by_force(a, b)


@given(few_words, few_words, st.sets(st.integers(1, 6)))
@settings(max_examples=150, deadline=None)
def test_bound_words_never_cost_a_word_or_a_neighbour(a, b, bound):
    have = longest_common_subsequence(a, b, bound=bound)
    assert_is_alignment(have, a, b)
    assert (len(have), num_neighbours(have)) == best_by_force(a, b)


@given(some_words, some_words)
@settings(deadline=None)
def test_as_long_as_by_the_table(a, b):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nomina.subsequences._MAX_BITS", 50)  # some are kept whole, some in part
        by_bits = match_by_bits(a, b)
    for have in (longest_common_subsequence(a, b), by_bits):
        assert_is_alignment(have, a, b)
        assert len(have) == length_by_table(a, b)


@given(st.lists(st.sampled_from("ab"), max_size=6), st.lists(st.integers(0, 5), max_size=5))
@settings(deadline=None)
def test_runs_are_cut_without_loss(a, runs):
    """A limit of 0 pairs sends everything through the shortening of runs and the bit vectors."""
    b = [char for index, size in enumerate(runs) for char in "ab"[index % 2] * size * 3]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nomina.subsequences.MAX_PAIRS", 30)
        have = longest_common_subsequence(a, b)
    assert_is_alignment(have, a, b)
    assert len(have) == length_by_table(a, b)


def test_prefers_pairs_that_are_asked_for():
    a, b = ["a", "x", "a"], ["a"]
    assert longest_common_subsequence(a, b) == [(0, 0)]
    assert longest_common_subsequence(a, b, lambda i, j: i == 2) == [(2, 0)]


@pytest.mark.parametrize(
    ("a", "b", "want"),
    [
        (["x"] * 5000, ["x"] * 5000, 5000),
        (["x"] * 5000, ["x"] * 4999, 4999),
        (["x"] * 5000, ["x"] * 2500 + ["y"] + ["x"] * 2499, 4999),
        (["x", "y"] * 2500, ["x", "y"] * 2499, 4998),
        (["a", "b", "c"] * 100, ["a", "b", "c"] * 1500, 300),
    ],
)
def test_repeats_never_take_quadratic_time(a, b, want):
    """The published LIS took 5 s for 2,000 equal words: a model stuck in a loop writes that."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        have = longest_common_subsequence(a, b)
        seconds.append(time.process_time() - start)
    assert len(have) == want
    assert min(seconds) < 0.05


# --------------------------------------------------------------------------------------------------
# Reading completions


@pytest.mark.parametrize(
    ("completion", "want"),
    [
        ("did(O) george(B-actor)", [("did", "O"), ("george", "B-actor")]),
        ("did(O)george(B-actor)", [("did", "O"), ("george", "B-actor")]),
        ("did( O ) george(b-actor)", [("did", "O"), ("george", "B-actor")]),
        ("f(x)(O) g(B-method (ML))", [("f(x)", "O"), ("g", "B-method (ML)")]),
        ("x(B-method (AI) y(O)", [("x", "B-method (AI"), ("y", "O")]),
        ("george(B-actor clooney(I-actor)", [("george", "B-actor"), ("clooney", "I-actor")]),
        ("george(actor) clooney(actor)", [("george", "B-actor"), ("clooney", "I-actor")]),
        ("(O) x(O)", [("", "O"), ("x", "O")]),
        ("in the(O) end(O) of", [("in the", "O"), ("end", "O")]),
        ("no tags at all", []),
        ("", []),
    ],
)
def test_reads_what_models_write(completion, want):
    labels = LabelSet.of(["actor", "method (ML)"])
    if "(AI" in completion:
        labels = LabelSet.of(["method (AI"])
    assert read_pairs(completion, labels=labels) == want


def test_words_that_look_like_tags_are_text_if_the_source_has_them():
    words = ["(O)", "is", "(B-52)", "f(O)"]
    completion = "(O)(O) is(O) (B-52)(B-plane) f(O)(O)"
    have = align(words, completion, labels=["plane"])
    assert have.tags == ["O", "O", "B-plane", "O"]
    assert have.status is AlignmentStatus.EXACT


@pytest.mark.parametrize(
    ("completion", "want"),
    [
        ("did [george clooney](actor) ?", "O B-actor I-actor O"),
        (r"did \[george\] clooney", "O O O O O"),
        ("[new [york](city) times](paper)", "B-paper I-paper I-paper"),
        ("[a b](x (y)) c", "B-x_(y) I-x_(y) O"),
        (r"[a](x \(y\)) c", "B-x_(y) O"),
        ("f[x](a lost bracket", "O O O O O"),
        ("see [1] and [b](x)", "O O O B-x"),
        ("[half a comple", "O O O"),
        ("](x) [", "O O"),
    ],
)
def test_reads_inline(completion, want):
    pairs = read_pairs(completion, "inline")
    have = " ".join(tag.replace(" ", "_") for _, tag in pairs)
    if want.count("O") == len(want.split()):
        assert set(have.split()) <= {"O"}
    else:
        assert have == want


def test_inline_words_are_cut_as_the_source_is():
    words = ["Paris", "'", "s", "O2", "-", "arena", "!"]
    have = align(words, "[Paris](city)'s [O2-arena](place)!", "inline")
    assert have.tags == ["B-city", "O", "O", "B-place", "I-place", "I-place", "O"]
    assert have.status is AlignmentStatus.EXACT
    corpus_words = ["don't", "go", "to", "St.", "Ives"]
    have = align(corpus_words, "don't go to [St. Ives](city)", "inline")
    assert have.spans == [Span(3, 5, "city")]


def test_unknown_format_and_mode():
    with pytest.raises(FormatError, match="'gner' or 'inline', was: 'json'"):
        align(["a"], "a(O)", "json")
    with pytest.raises(FormatError, match="mode"):
        align(["a"], "a(O)", mode="worst")
    with pytest.raises(LabelError, match="unknown"):
        align(["a"], "a(O)", unknown="guess")


# --------------------------------------------------------------------------------------------------
# Aligning


@pytest.mark.parametrize(
    ("words", "completion", "tags"),
    [
        # a missing word, a doubled word, both
        ("a b c", "a(O) c(B-x)", "O O B-x"),
        ("a b c", "a(O) b(B-x) b(B-x) c(O)", "O B-x O"),
        # the first of two equal words is not taken just because it comes first
        ("the first and the second", "the(B-x) second(I-x)", "O O O B-x I-x"),
        ("york is in new york", "in(O) new(B-x) york(I-x)", "O O O B-x I-x"),
        # both are as good for the words; an entity is not torn apart
        ("who the first and the second", "who(O) the(B-x) second(I-x)", "O O O O B-x I-x"),
        ("the first and the end", "the(B-x) first(I-x) end(O)", "B-x I-x O O O"),
        ("the second or the a b", "the(B-x) a(I-x) b(O)", "O O O B-x I-x O"),
        # case, quotes, accents, dashes, compatibility forms
        ("He said “ Beyoncé ”", 'he(O) said(O) "(O) Beyonce(B-x) "(O)', "O O O B-x O"),
        ("ﬁlm – noir", "film(B-x) -(I-x) noir(I-x)", "B-x I-x I-x"),
        # characters that T5 cannot write
        ("Stanisław Lem {", "Stanisaw(B-x) Lem(I-x) (O)", "B-x I-x O"),
        ("math \\ hat { f }", "math(B-x) (I-x) hat(I-x) (I-x) f(I-x) (O)", "B-x I-x I-x I-x I-x O"),
        # merged and split words
        ("in New York", "in(O) NewYork(B-x)", "O B-x I-x"),
        ("in New York", "in(O) New York(B-x)", "O B-x I-x"),
        ("in NewYork", "in(O) New(B-x) York(I-x)", "O B-x"),
        ("Clooney 's film", "Clooney's(B-x) film(O)", "B-x O O"),
        ("Moody 's Corp", "Moody's(B-x) Corp(I-x)", "B-x I-x I-x"),
        ("tonight , please", "tonight,(B-x) please(O)", "B-x O O"),
        # a misspelling; another word in its place
        ("george clooney sings", "george(B-x) cloney(I-x) sings(O)", "B-x I-x O"),
        ("see Foo sing", "see(O) Bar(B-x) sing(O)", "O B-x O"),
        # a word left out inside an entity
        ("the Bank of England", "the(O) Bank(B-x) England(I-x)", "O B-x I-x I-x"),
        # half a completion, and nothing
        ("a b c", "a(B-x) b(O) c(B", "B-x O O"),
        ("a b c", "", "O O O"),
        # the label changes on the way: the last one names the entity
        ("Haiti earthquake", "Haiti(B-country) earthquake(I-event)", "B-event I-event"),
    ],
)
def test_aligns_what_models_write(words, completion, tags):
    assert align(words.split(), completion).tags == tags.split()


@pytest.mark.parametrize(
    ("completion", "status", "num_unaligned", "num_extra"),
    [
        ("a(O) b(O) c(O)", "exact", 0, 0),
        ("A(O) b(O) c(O)", "exact", 0, 0),
        ("a(O) c(O)", "omission", 1, 0),
        ("a(O) b(O) b(O) c(O)", "addition", 0, 1),
        ("a(O) zz(O) yy(O) c(O)", "substitution", 1, 2),
        ("", "omission", 3, 0),
    ],
)
def test_says_what_happened(completion, status, num_unaligned, num_extra):
    have = align(["a", "b", "c"], completion)
    assert have.status.value == status
    assert (have.num_unaligned, have.num_extra) == (num_unaligned, num_extra)
    assert have.to_dict()["status"] == status


def test_a_loop_of_a_thousand_words():
    words = "who sings in the old band and the new band".split()
    completion = (
        " ".join(f"{w}(O)" for w in words[:4]) + " old(B-x) band(I-x)" + " band(I-x)" * 1000
    )
    start = time.perf_counter()
    have = align(words, completion)
    assert time.perf_counter() - start < 0.2
    assert have.spans[0] == Span(4, 6, "x")
    assert have.num_extra >= 998


def test_unknown_labels_are_reported_or_mapped_or_kept_or_refused():
    words, completion = ["a", "b"], "a(B-film director) b(B-TITLE)"
    report = align(words, completion, labels=["director", "title"])
    assert report.tags == ["O", "B-title"]
    assert report.unknown_labels == {"film director": 1}
    nearest = align(words, completion, labels=["director", "title"], unknown="nearest")
    assert nearest.tags == ["B-director", "B-title"]
    assert nearest.mapped_labels == {"film director": "director"}
    assert nearest.unknown_labels == {"film director": 1}
    kept = align(words, completion, labels=["director", "title"], unknown="keep")
    assert kept.tags == ["B-film director", "B-title"]
    with pytest.raises(FormatError, match="'film director', but only"):
        align(words, completion, labels=["director", "title"], unknown="error")
    assert nearest_label("zzz", ("director", "title")) is None


def test_summary_counts_shares():
    summary = AlignmentSummary()
    for completion in ("a(O) b(O)", "a(O)", "a(B-odd) c(O) d(O)"):
        summary.add(align(["a", "b"], completion, labels=["x"]))
    have = summary.to_dict()
    assert have["shares"]["exact"] == pytest.approx(1 / 3)
    assert have["unknown_labels"] == {"odd": 1}
    assert "outside the set: odd (1)" in summary.table()
    assert AlignmentSummary().to_dict()["shares"]["exact"] == 0.0


odd_words = st.lists(
    st.one_of(
        st.sampled_from(
            ["a", "(O)", "(", ")", "[", "]", "\\", "f(x)", "(B-52)", "](x)", "O", "b(I-x)"]
        ),
        st.text("ab()[]\\-BIO'é", min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=6,
)


@given(odd_words, st.data())
@settings(deadline=None, max_examples=100)
@pytest.mark.parametrize("name", ["gner", "inline"])
def test_what_our_formats_write_is_read_without_loss(name, words, data):
    """Any words, brackets and look-alike tags among them; spans of labels with brackets."""
    labels = ["x", "a (b)"]
    spans, position = [], 0
    while position < len(words):
        size = data.draw(st.integers(0, 3))
        if size and position + size <= len(words):
            spans.append(Span(position, position + size, data.draw(st.sampled_from(labels))))
        position += max(1, size)
    text, offsets = join_words(words)
    completion = target(get_format(name), Sentence.of(text, offsets), labels, spans)
    have = align(words, completion, name, labels)
    assert have.spans == spans, completion
    assert have.status is AlignmentStatus.EXACT


# --------------------------------------------------------------------------------------------------
# As published


class WordPieces:
    """Reads words back without accents and braces, as a tokenizer that lacks them does."""

    def __call__(self, words):
        return {"input_ids": list(words)}

    def batch_decode(self, ids, *, skip_special_tokens):
        assert skip_special_tokens
        plain = [unicodedata.normalize("NFKD", word) for word in ids]
        return ["".join(c for c in word if c.isascii() and c not in "{}") for word in plain]


def test_published_matching_takes_the_first_of_equal_words():
    words = ["york", "is", "in", "new", "york", "x"]
    have = align(words, "york(B-city)", mode="gner")
    assert have.tags == ["B-city", "O", "O", "O", "O", "O"]
    assert have.status is AlignmentStatus.OMISSION


def test_published_matching_uses_back_tokenisation():
    words, written = ["{", "é", "x"], ["e", "x"]
    assert match_hierarchically(words, written, WordPieces())[0] == [-1, 0, 1]
    assert align(words, "e(B-a) x(O)", mode="gner", tokenizer=WordPieces()).tags[1] == "B-a"
    assert align(words, "e(B-a) x(O)", tokenizer=WordPieces()).tags == ["O", "B-a", "O"]


def test_without_a_tokenizer_the_completion_says_what_it_cannot_write():
    matched, status = match_hierarchically(["{", "Łukasz", "x"], ["ukasz", "x"])
    assert matched == [-1, 0, 1]
    assert status is AlignmentStatus.OMISSION


def test_published_reading_lets_the_last_label_win():
    assert gner_spans(["I-a", "I-b", "O", "B-a", "B-a"]) == [
        Span(0, 2, "b"),
        Span(3, 4, "a"),
        Span(4, 5, "a"),
    ]
    have = align(["a", "b"], "a(B-x) b(I-y)", mode="gner")
    assert have.tags == ["B-x", "I-y"]
    assert have.spans == [Span(0, 2, "y")]


@given(st.text("()OBI-x \n", max_size=30))
@settings(deadline=None, max_examples=150)
def test_published_reading_is_its_pattern(completion):
    want, start = [], 0
    for match in re.finditer(r"\((O|[BI]-.*?)\)", completion):
        if text := completion[start : match.start()].strip():
            want.append((text, match.group(1).strip()))
        start = match.end()
    assert read_plain_pairs(completion) == want


def test_published_matching_survives_a_loop():
    words = ["a"] * 1500
    start = time.perf_counter()
    align(words, "a(O) " * 1400 + "b(O)", mode="gner")
    assert time.perf_counter() - start < 1.0


# --------------------------------------------------------------------------------------------------
# Fuzz: a small version of benchmarks/alignment.py


def mutate(rng, pairs):
    """Damage (word, tag) pairs the way models do; returns the completion."""
    pairs = list(pairs)
    for _ in range(rng.randint(0, 4)):
        if not pairs:
            break
        k = rng.randrange(len(pairs))
        word, tag = pairs[k]
        kind = rng.randrange(9)
        if kind == 0:
            del pairs[k]
        elif kind == 1:
            pairs.insert(k, pairs[k])
        elif kind == 2:
            pairs[k] = (word.swapcase(), tag)
        elif kind == 3 and len(word) > 1:
            pairs[k : k + 1] = [(word[:1], tag), (word[1:], tag)]
        elif kind == 4 and k + 1 < len(pairs):
            pairs[k : k + 2] = [(word + pairs[k + 1][0], tag)]
        elif kind == 5:
            pairs[k] = (word, "B-nolabel")
        elif kind == 6:
            pairs = pairs[:k]
        elif kind == 7:
            pairs[k:k] = [pairs[k]] * rng.randint(1, 50)
        else:
            pairs[k] = ("zzz", tag)
    text = " ".join(f"{word}({tag})" for word, tag in pairs)
    if text and rng.random() < 0.2:
        k = rng.randrange(len(text))
        text = text[:k] + rng.choice(["", "(", ")", "[", "\\", "(O", "\n"]) + text[k + 1 :]
    return text


def test_damaged_completions_never_crash_and_keep_the_best_alignment():
    rng = random.Random(0)
    words_of = "the a of new york bank café x 's , (n) “".split()
    for _ in range(800):
        words = [rng.choice(words_of) for _ in range(rng.randint(1, 7))]
        tags = [rng.choice(["O", "O", "B-x", "I-x", "B-y z"]) for _ in words]
        completion = mutate(rng, zip(words, tags, strict=True))
        labels = LabelSet.of(["x", "y z"])
        have = align(words, completion, labels=labels)
        assert len(have.tags) == len(words)
        assert all(label in labels.names for *_, label in tags_to_spans(have.tags))
        written = [w for w, _ in read_pairs(completion, words=words, labels=labels)]
        written = [
            p for w in written for p in ([w] if fold(w) in map(fold, words) else w.split() or [w])
        ]
        if len(written) > 12:
            continue
        source, target = [fold(w) for w in words], [fold(w) for w in written]
        pairs = [(i, j) for i, j in enumerate(have.sources) if j >= 0 and source[i] == target[j]]
        want = best_by_force(source, target)
        assert len(pairs) >= want[0], (words, completion)


@given(st.text(max_size=60), st.sampled_from(["gner", "inline"]), st.sampled_from(["best", "gner"]))
@settings(max_examples=150, deadline=None)
def test_any_text_can_be_aligned(completion, format, mode):
    words = ["a", "(O)", "b", "[", "]"]
    have = align(words, completion, format, labels=["a", "b (c)"], mode=mode)
    assert len(have.tags) == len(words)
    assert Counter(have.tags)["O"] + sum(tag[:2] in ("B-", "I-") for tag in have.tags) == 5
