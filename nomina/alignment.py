r"""Bring what a model wrote back onto the words it was asked about.

A model that decodes freely loses, doubles, merges and misspells words. `align` reads its
completion as (word, tag) pairs, tolerantly, matches the pairs with the source words and returns
one tag a source word with a report of what happened. Two ways to match:

- ``best`` (the default): the most equal words, among those the alignment that keeps neighbours
  together, then the words left in between are matched by their characters (split, merged and
  misspelt words) or, where just as many are left on both sides, by position.
- ``gner``: Hierarchical Matching as Ding et al. (2024, arXiv 2402.16602, section 3.3) describe it
  and their evaluator does it, its faults included, for parity with published numbers.

In order: the two matchers (on top of `subsequences.py`; `completions.py` does the reading), labels,
`align`, and the table of shares at the end of a run.

Knows nothing of models; a tokenizer is only ever given by the caller, as something that can write
words and read them back. Tags are passed along as they are; `entities.tags_to_spans` reads them.
"""

from __future__ import annotations

import difflib
import enum
import functools
import unicodedata
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from nomina.completions import fold, locate_pairs, read_pairs, read_plain_pairs
from nomina.entities import LabelSet, Span, normalize_label, tags_to_spans
from nomina.errors import FormatError, LabelError
from nomina.subsequences import Node, longest_common_subsequence, match_by_bits

Unknown = Literal["report", "nearest", "keep", "error"]
Mode = Literal["best", "gner"]


class BackTokenizer(Protocol):
    """A tokenizer that can write words as ids and read them back, such as Hugging Face's."""

    def __call__(self, words: list[str], /) -> Mapping[str, Any]:
        """Return a mapping whose `input_ids` has one list of ids a word."""
        ...

    def batch_decode(self, ids: Any, /, *, skip_special_tokens: bool) -> list[str]:
        """Read lists of ids back as text."""
        ...


class AlignmentStatus(str, enum.Enum):
    """How the words of a completion stand to the words of the source.

    Case, accents and the shape of quotes do not count.
    """

    EXACT = "exact"  # the same words
    OMISSION = "omission"  # source words are missing, nothing else
    ADDITION = "addition"  # all source words are there, with more between them
    SUBSTITUTION = "substitution"  # words are missing and others stand there


@dataclass(frozen=True)
class Alignment:
    """The tags of a completion on the words of its source, and what it took.

    Attributes:
        tags: One BIO tag a source word.
        status: Exact, omission, addition or substitution.
        num_unaligned: Source words that the completion says nothing about; they are `O`, unless
            they stand inside an entity that goes on behind them.
        num_extra: Words of the completion that belong to no source word.
        num_repaired: Source words matched by characters or position and not by equality.
        num_relabelled: Entities whose label changed on the way; they have the last one.
        unknown_labels: Labels written outside the set, and how often.
        mapped_labels: Which of them were mapped to which label of the set.
        sources: For each source word, the index of the completion's word it took its tag from, or
            -1.
        places: For each of the completion's words, where it and its tag stand in the completion;
            only in mode "best".
        mode: "best" or "gner".
    """

    tags: list[str]
    status: AlignmentStatus
    num_unaligned: int = 0
    num_extra: int = 0
    num_repaired: int = 0
    num_relabelled: int = 0
    unknown_labels: dict[str, int] = field(default_factory=dict)
    mapped_labels: dict[str, str] = field(default_factory=dict)
    sources: list[int] = field(default_factory=list, repr=False)
    places: list[tuple[int, int]] = field(default_factory=list, repr=False)
    mode: Mode = "best"

    @property
    def spans(self) -> list[Span]:
        """The entities; in mode "gner" read as GNER's evaluator reads tags."""
        return gner_spans(self.tags) if self.mode == "gner" else tags_to_spans(self.tags)

    def to_dict(self) -> dict[str, Any]:
        """Return what happened as a JSON-ready dict."""
        return {
            "tags": self.tags,
            "status": self.status.value,
            "num_unaligned": self.num_unaligned,
            "num_extra": self.num_extra,
            "num_repaired": self.num_repaired,
            "num_relabelled": self.num_relabelled,
            "unknown_labels": self.unknown_labels,
            "mapped_labels": self.mapped_labels,
        }


def gner_spans(tags: Sequence[str]) -> list[Span]:
    """Read BIO tags as GNER's evaluator does: an `I-` always goes on, the last label names it.

    Example:
        >>> gner_spans(["B-city", "I-country", "O"])
        [Span(start=0, end=2, label='country')]
        >>> tags_to_spans(["B-city", "I-country", "O"])
        [Span(start=0, end=1, label='city'), Span(start=1, end=2, label='country')]
    """
    bare = [tag if tag in ("O", "") else f"{tag[:1]}-entity" for tag in tags]
    return [Span(a, b, tags[b - 1].partition("-")[2]) for a, b, _ in tags_to_spans(bare)]


# --------------------------------------------------------------------------------------------------
# Hierarchical Matching, as published

# What the vocabulary of T5 lacks among the printable ASCII characters.
_T5_LACKS = frozenset("{}\\^~<`")


def match_hierarchically(
    words: Sequence[str],
    written: Sequence[str],
    tokenizer: BackTokenizer | None = None,
    completion: str | None = None,
) -> tuple[list[int], AlignmentStatus]:
    """Match words as GNER's evaluator does: equal, ordered subsequence, or LCS through LIS.

    Args:
        words: The source words.
        written: The words of the completion.
        tokenizer: The model's tokenizer: each source word is written and read back, so that it
            looks as the model had to write it. Without one, characters that the completion never
            uses are taken for characters the model lacks, if they are not plain ASCII or are
            among the seven ASCII characters that T5's vocabulary lacks; a source word is spelled
            without them if the completion does not have it as it is.
        completion: The whole completion, for the characters it uses. Defaults to the written
            words.

    Returns:
        For each source word the index of its written word or -1, and which condition held.

    Example:
        >>> match_hierarchically(["the", "end", "of", "the", "line"], ["the", "line"])[0]
        [0, -1, -1, -1, 1]
    """
    source = [word.lower() for word in words]
    target = [word.lower() for word in written]
    if tokenizer is not None:
        source = tokenizer.batch_decode(tokenizer(source)["input_ids"], skip_special_tokens=True)
    elif source != target:
        source = _respell(source, target, target if completion is None else completion.lower())
    if source == target:
        return list(range(len(source))), AlignmentStatus.EXACT
    matched, j = [-1] * len(source), 0
    for i, word in enumerate(source):
        if j < len(target) and word == target[j]:
            matched[i] = j
            j += 1
    if j == len(target):
        return matched, AlignmentStatus.OMISSION
    matched = [-1] * len(source)
    for i, j in _longest_by_lis(source, target):
        matched[i] = j
    is_addition = -1 not in matched
    return matched, AlignmentStatus.ADDITION if is_addition else AlignmentStatus.SUBSTITUTION


def _respell(source: list[str], target: list[str], text: Iterable[str]) -> list[str]:
    """Spell source words without the characters that the writer of `target` seems to lack."""
    have, used = set(target), set().union(*text)
    out = []
    for word in source:
        if word not in have:
            plain = unicodedata.normalize("NFKC", word)
            word = "".join(
                char for char in plain if char in used or (char.isascii() and char not in _T5_LACKS)
            )
        out.append(word)
    return out


def _longest_by_lis(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """LCS as the longest increasing subsequence of positions: fast unless words repeat much."""
    positions: defaultdict[str, list[int]] = defaultdict(list)
    for j in range(len(b) - 1, -1, -1):
        positions[b[j]].append(j)
    if sum(len(positions[word]) for word in a if word in positions) > 1_000_000:
        return match_by_bits(a, b)  # the original would take seconds to hours here
    ends: list[int] = []
    nodes: list[Node] = []
    for i, word in enumerate(a):
        for j in positions.get(word, ()):
            k = bisect_left(ends, j)
            node = (i, j, nodes[k - 1] if k else None)
            if k == len(ends):
                ends.append(j)
                nodes.append(node)
            else:
                ends[k], nodes[k] = j, node
    pairs = []
    last = nodes[-1] if nodes else None
    while last is not None:
        i, j, last = last
        pairs.append((i, j))
    return pairs[::-1]


# --------------------------------------------------------------------------------------------------
# Our matching

_MAX_REPAIR_CHARS = 20_000  # of a gap on either side; beyond that its words stay unaligned
_MAX_REPAIR_RATIO, _REPAIR_SLACK = 3, 20  # a longer completion of a gap is another text, or a loop
_MAX_UNIT_WORDS = 6  # a longer run before one tag is a run whose tags were left out, not a merge
_MAX_HOLE = 2  # words left out inside an entity; more look like a jump to another entity
_MAX_BY_POSITION = 8  # words of a gap that may be matched by position alone


def _match_best(
    source: list[str],
    target: list[str],
    prefer: Callable[[int, int], bool] | None,
    bound: Collection[int],
) -> tuple[list[int], AlignmentStatus, int]:
    """Source word -> index of the completion's word or -1; what happened; words repaired."""
    if source == target:
        return list(range(len(source))), AlignmentStatus.EXACT, 0
    pairs = longest_common_subsequence(source, target, prefer, bound)
    if len(pairs) == sum(map(bool, target)):  # a tag without a word is no other word
        status = AlignmentStatus.OMISSION
    elif len(pairs) == len(source):
        status = AlignmentStatus.ADDITION
    else:
        status = AlignmentStatus.SUBSTITUTION
    matched = [-1] * len(source)
    for i, j in pairs:
        matched[i] = j
    num_repaired = 0
    known = set(source)
    last_i = last_j = -1
    for i, j in [*pairs, (len(source), len(target))]:
        if i - last_i > 1 and j - last_j > 1:
            gap = _match_gap(source[last_i + 1 : i], target[last_j + 1 : j], known)
            for s, t in gap.items():
                matched[last_i + 1 + s] = last_j + 1 + t
            num_repaired += len(gap)
        last_i, last_j = i, j
    return matched, status, num_repaired


def _match_gap(source: list[str], target: list[str], known: set[str]) -> dict[int, int]:
    """Match the words between two equal pairs: by characters, then by position.

    A written word that is a word of the source (in `known`), only elsewhere, is a doubled or
    misplaced one: it stands for no other word by position.
    """
    found = _match_characters(source, target, known)
    last_s = last_t = -1
    out = dict(found)
    for s, t in [*sorted(found.items()), (len(source), len(target))]:
        count = s - last_s - 1
        if count and t - last_t - 1 == count <= _MAX_BY_POSITION:
            for k in range(1, count + 1):
                if target[last_t + k] not in known:
                    out[last_s + k] = last_t + k
        last_s, last_t = s, t
    return out


def _match_characters(source: list[str], target: list[str], known: set[str]) -> dict[int, int]:
    """Link words that share more than half of their characters with what stands opposite.

    A word split in two, or two words merged, still have all their characters in order. A written
    word that is a word of the source elsewhere must be found whole.
    """
    chars_s, owner_s = _characters(source)
    chars_t, owner_t = _characters(target)
    shorter, longer = sorted((len(chars_s), len(chars_t)))
    limit = min(_MAX_REPAIR_CHARS, _MAX_REPAIR_RATIO * shorter + _REPAIR_SLACK)
    if not shorter or longer > limit:
        return {}
    shared: Counter[tuple[int, int]] = Counter()
    total_s: Counter[int] = Counter()
    total_t: Counter[int] = Counter()
    for i, j in longest_common_subsequence(chars_s, chars_t):
        s, t = owner_s[i], owner_t[j]
        shared[s, t] += 1
        total_s[s] += 1
        total_t[t] += 1
    best: dict[int, tuple[int, int]] = {}
    for (s, t), count in shared.items():
        size = len(target[t])
        is_found = total_t[t] == size if target[t] in known else 2 * total_t[t] > size
        if is_found and 2 * total_s[s] > len(source[s]):
            # On a tie the earlier word wins, so that a split entity keeps its B-.
            if s not in best or (count, -t) > (best[s][0], -best[s][1]):
                best[s] = (count, t)
    return {s: t for s, (_, t) in best.items()}


def _characters(words: list[str]) -> tuple[str, list[int]]:
    return "".join(words), [index for index, word in enumerate(words) for _ in word]


# --------------------------------------------------------------------------------------------------
# Labels


class _Labels:
    """Maps the labels a model wrote to the labels that were asked for."""

    def __init__(self, labels: LabelSet | None, unknown: Unknown, *, is_exact: bool) -> None:
        self.names = labels.names if labels else None
        self.unknown = unknown
        self.is_exact = is_exact
        self.by_key = {} if is_exact else {normalize_label(n): n for n in self.names or ()}
        self.outside: Counter[str] = Counter()
        self.mapped: dict[str, str] = {}

    def __call__(self, tag: str) -> str:
        """Return the tag with a label of the set, or `O`."""
        if tag == "O":
            return tag
        prefix, _, label = tag.partition("-")
        if self.names is None or label in self.names:
            return tag
        if (name := self.by_key.get(normalize_label(label))) is not None:
            return f"{prefix}-{name}"
        self.outside[label] += 1
        if self.unknown == "keep":
            return tag if label.strip() else "O"
        if self.unknown == "error":
            raise FormatError(
                f"the completion has the label {label!r}, but only {list(self.names)} were asked "
                "for. Use unknown='report' to count such labels, or 'nearest' to map them."
            )
        if self.unknown == "nearest" and (name := nearest_label(label, self.names)):
            self.mapped[label] = name
            return f"{prefix}-{name}"
        return "O"


@functools.lru_cache(maxsize=4096)
def nearest_label(label: str, names: tuple[str, ...]) -> str | None:
    """Return the name most like `label`, or nothing if none shares half of its characters.

    Example:
        >>> nearest_label("film director", ("actor", "director", "genre"))
        'director'
        >>> nearest_label("zip", ("actor", "director")) is None
        True
    """
    key = normalize_label(label)

    def likeness(name: str) -> float:
        other = normalize_label(name)
        ratio = difflib.SequenceMatcher(None, key, other, autojunk=False).ratio()
        ours, theirs = set(key.split()), set(other.split())
        return max(ratio, 0.9 * len(ours & theirs) / max(1, min(len(ours), len(theirs))))

    best = max(names, key=likeness, default=None)
    return best if best is not None and likeness(best) >= 0.5 else None


# --------------------------------------------------------------------------------------------------
# Align


def align(
    words: Sequence[str],
    completion: str,
    format: str = "gner",
    labels: LabelSet | Iterable[str] | None = None,
    *,
    tokenizer: BackTokenizer | None = None,
    unknown: Unknown = "report",
    mode: Mode = "best",
) -> Alignment:
    """Put the tags of a completion onto the words it was to copy.

    Args:
        words: The source words.
        completion: What the model wrote; anything can be read, at worst as no tags at all.
        format: "gner" or "inline". Defaults to "gner".
        labels: The labels that were asked for. Without them every label is taken.
        tokenizer: The model's tokenizer, to see how it had to write each word. Optional: the
            characters it lacks are guessed from the completion otherwise.
        unknown: What becomes of a label outside the set: "report" makes it `O` and counts it,
            "nearest" maps it to the most similar label and says so, "keep" passes it on, "error"
            raises. Case and underscores never make a label unknown in mode "best".
        mode: "best" for our matching, "gner" for the published one. Defaults to "best".

    Raises:
        FormatError: If the format or mode is unknown, or a label is and `unknown` is "error".
        LabelError: If `labels` or `unknown` cannot be used.

    Example:
        >>> words = ["the", "actor", "George", "Clooney", ",", "the", "Doctor"]
        >>> found = align(words, "the(O) Doctor(B-role) who(O)", labels=["role"])
        >>> found.tags
        ['O', 'O', 'O', 'O', 'O', 'O', 'B-role']
        >>> found.status.value, found.num_unaligned, found.num_extra
        ('substitution', 5, 1)
    """
    if unknown not in ("report", "nearest", "keep", "error"):
        raise LabelError(f"`unknown` must be report, nearest, keep or error, was: {unknown!r}")
    label_set = labels if labels is None else _label_set(labels)
    if mode == "gner":
        return _align_as_published(words, completion, format, label_set, tokenizer, unknown)
    if mode != "best":
        raise FormatError(f"`mode` must be 'best' or 'gner', was: {mode!r}")
    written: list[str] = []
    tags: list[str] = []
    unit_of: list[int] = []
    have: set[str] | None = None
    places: list[tuple[int, int]] = []
    for number, (text, tag, start, end) in enumerate(
        locate_pairs(completion, format, words=words, labels=label_set)
    ):
        parts = [text]
        if " " in text or "\n" in text or "\t" in text:
            have = {fold(word) for word in words} if have is None else have
            parts = [text] if fold(text) in have else text.split()
        num_silent = len(parts) - 1 if len(parts) > _MAX_UNIT_WORDS else 0
        written += parts
        unit_of += [number] * len(parts)
        places += [(start, end)] * len(parts)
        tags += ["O"] * num_silent + [tag] * (len(parts) - num_silent)
    source = [fold(word) for word in words]
    if tokenizer is not None:
        source = _read_back(words, source, written, tokenizer)
    target = [fold(word) for word in written]
    bound = {
        j
        for j in range(1, len(tags))
        if tags[j].startswith("I-") or (unit_of[j] == unit_of[j - 1] and tags[j] != "O")
    }
    matched, status, num_repaired = _match_best(
        source, target, lambda i, j: words[i] == written[j], bound
    )
    to_label = _Labels(label_set, unknown, is_exact=False)
    tags = [to_label(tag) for tag in tags]
    out = _carry(words, matched, tags, unit_of)
    num_relabelled = _name_by_last(out)
    return Alignment(
        tags=out,
        status=status,
        num_unaligned=matched.count(-1),
        num_extra=sum(bool(w) for w in written) - _num_used(matched, written),
        num_repaired=num_repaired,
        num_relabelled=num_relabelled,
        unknown_labels=dict(to_label.outside),
        mapped_labels=to_label.mapped,
        sources=matched,
        places=places,
    )


def _label_set(labels: LabelSet | Iterable[str]) -> LabelSet:
    if isinstance(labels, (LabelSet, str, Mapping)):
        return LabelSet.of(labels)
    return _cached_label_set(tuple(labels))


@functools.lru_cache(maxsize=1024)
def _cached_label_set(names: tuple[str, ...]) -> LabelSet:
    return LabelSet.of(names)


def _num_used(matched: list[int], written: list[str]) -> int:
    return len({j for j in matched if j >= 0 and written[j]})


def _read_back(
    words: Sequence[str], source: list[str], written: list[str], tokenizer: BackTokenizer
) -> list[str]:
    """Spell source words as the tokenizer has to, where the completion lacks them as they are."""
    have = {fold(word) for word in written}
    ids = tokenizer(list(words))["input_ids"]
    decoded = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [
        key if key in have or not back.strip() else fold(back.strip())
        for key, back in zip(source, decoded, strict=True)
    ]


def _carry(
    words: Sequence[str], matched: list[int], tags: list[str], unit_of: list[int]
) -> list[str]:
    """Give each source word the tag of its written word; a unit's later words go on with it."""
    out = ["O"] * len(words)
    used = set(matched)
    for i, j in enumerate(matched):
        if j < 0 or tags[j] == "O":
            continue
        before = matched[i - 1] if i else -1
        out[i] = tags[j]
        if j and j - 1 not in used and tags[j] == f"I-{tags[j - 1][2:]}":
            out[i] = tags[j - 1]  # the entity's first written word is this one's first part
        if before < 0 or unit_of[before] != unit_of[j]:
            continue
        if out[i - 1] == "O" or (_is_clitic(words[i]) and not _goes_on(i, matched, tags, unit_of)):
            # "Clooney's(B-actor)" for "Clooney" and "'s": the sign is no part of the name.
            out[i] = "O"
        else:
            out[i] = f"I-{tags[j].partition('-')[2]}"
    _fill_holes(matched, out)
    return out


def _name_by_last(tags: list[str]) -> int:
    """Give an entity that changes its label on the way the last one; return how many did.

    A model that writes `B-country I-event` for "Haiti earthquake" has seen one entity, and the
    last word of a name says what it is. GNER's evaluator reads such tags the same way.
    """
    num_relabelled = 0
    for start, end, label in gner_spans(tags):
        if any(tag[2:] != label for tag in tags[start:end]):
            tags[start:end] = [f"{tag[:2]}{label}" for tag in tags[start:end]]
            num_relabelled += 1
    return num_relabelled


def _is_clitic(word: str) -> bool:
    return word[:1] in ("'", "’") or not any(char.isalnum() for char in word)


def _goes_on(i: int, matched: list[int], tags: list[str], unit_of: list[int]) -> bool:
    """Whether the next source word continues the entity of word `i`."""
    if i + 1 == len(matched) or matched[i + 1] < 0:
        return False
    here, after = matched[i], matched[i + 1]
    same_label = tags[after].partition("-")[2] == tags[here].partition("-")[2]
    return same_label and (unit_of[after] == unit_of[here] or tags[after].startswith("I-"))


def _fill_holes(matched: list[int], tags: list[str]) -> None:
    """Words left out inside an entity belong to it: the model wrote on with `I-`."""
    i = 1
    while i < len(tags):
        if matched[i] >= 0 or tags[i - 1] == "O":
            i += 1
            continue
        stop = i
        while stop < len(tags) and matched[stop] < 0:
            stop += 1
        is_small = stop - i <= _MAX_HOLE and stop < len(tags)
        if is_small and matched[stop] == matched[i - 1] + 1:
            label = tags[i - 1].partition("-")[2]
            if tags[stop] == f"I-{label}":
                tags[i:stop] = [tags[stop]] * (stop - i)
        i = stop + 1


def _align_as_published(
    words: Sequence[str],
    completion: str,
    format: str,
    labels: LabelSet | None,
    tokenizer: BackTokenizer | None,
    unknown: Unknown,
) -> Alignment:
    if format == "gner":
        pairs = read_plain_pairs(completion)
    else:
        pairs = [pair for pair in read_pairs(completion, format, words=words) if pair[0]]
    to_label = _Labels(labels, unknown, is_exact=True)
    tags = [to_label(tag) for _, tag in pairs]
    written = [word for word, _ in pairs]
    matched, status = match_hierarchically(words, written, tokenizer, completion)
    return Alignment(
        tags=[tags[j] if j >= 0 else "O" for j in matched],
        status=status,
        num_unaligned=matched.count(-1),
        num_extra=len(written) - _num_used(matched, written),
        unknown_labels=dict(to_label.outside),
        mapped_labels=to_label.mapped,
        sources=matched,
        mode="gner",
    )


# --------------------------------------------------------------------------------------------------
# A run in numbers


@dataclass
class AlignmentSummary:
    """Counts over the alignments of a run.

    Example:
        >>> summary = AlignmentSummary()
        >>> summary.add(align(["in", "Paris"], "in(O) Paris(B-city)"))
        >>> summary.add(align(["in", "Paris"], "in(O)"))
        >>> print(summary.table())
        exact          1   50.0 %
        omission       1   50.0 %
        addition       0    0.0 %
        substitution   0    0.0 %
        1 of 4 words unaligned (25.00 %), 0 repaired, 0 words too many
    """

    statuses: Counter[str] = field(default_factory=Counter)
    unknown_labels: Counter[str] = field(default_factory=Counter)
    num_words: int = 0
    num_unaligned: int = 0
    num_extra: int = 0
    num_repaired: int = 0

    def add(self, alignment: Alignment) -> None:
        """Count one sentence."""
        self.statuses[alignment.status.value] += 1
        self.unknown_labels.update(alignment.unknown_labels)
        self.num_words += len(alignment.tags)
        self.num_unaligned += alignment.num_unaligned
        self.num_extra += alignment.num_extra
        self.num_repaired += alignment.num_repaired

    def to_dict(self) -> dict[str, Any]:
        """Return counts and shares as a JSON-ready dict."""
        total = self.statuses.total()
        return {
            "sentences": total,
            "shares": {
                status.value: self.statuses[status.value] / total if total else 0.0
                for status in AlignmentStatus
            },
            "words": self.num_words,
            "unaligned": self.num_unaligned,
            "extra": self.num_extra,
            "repaired": self.num_repaired,
            "unknown_labels": dict(self.unknown_labels.most_common()),
        }

    def table(self) -> str:
        """Return the shares as lines of text."""
        total = max(1, self.statuses.total())
        lines = []
        for status in AlignmentStatus:
            count = self.statuses[status.value]
            lines.append(f"{status.value:<12}{count:>4}{100 * count / total:>7.1f} %")
        share = 100 * self.num_unaligned / max(1, self.num_words)
        lines.append(
            f"{self.num_unaligned} of {self.num_words} words unaligned ({share:.2f} %), "
            f"{self.num_repaired} repaired, {self.num_extra} words too many"
        )
        if self.unknown_labels:
            named = ", ".join(f"{name} ({n})" for name, n in self.unknown_labels.most_common(8))
            lines.append(f"{self.unknown_labels.total()} tags with labels outside the set: {named}")
        return "\n".join(lines)
