"""Long texts in windows: where to cut, what to show around a cut, how to put results together.

A window says which words are decided in it (the windows tile the text: every word is decided once)
and which words are shown to the model beside them. Cuts are made at paragraph breaks, then at
sentence ends of any script, then at line breaks and clause punctuation, then between words, and
only at last inside a run without spaces. Everything is linear in the length of the text.

Knows nothing of models; counts words, or whatever costs the caller gives them.
"""

from __future__ import annotations

import functools
import itertools
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from nomina.entities import Span
from nomina.errors import TextError

# How good a place is to cut, in front of a word.
ANYWHERE, GAP, CLAUSE, LINE, SENTENCE, PARAGRAPH = range(6)

# A cut of this kind is taken only where it fills at least this share of the window: a paragraph
# break in its first half would double the number of windows, a sentence end is worth more windows
# (no entity crosses it), a comma is not.
_MIN_FILL = {PARAGRAPH: 0.5, SENTENCE: 0.25, LINE: 0.5, CLAUSE: 0.5, GAP: 0.5}


@dataclass(frozen=True, slots=True)
class Window:
    """Words `[start, end)` to decide, and words `[context_start, context_end)` to show."""

    start: int
    end: int
    context_start: int
    context_end: int


def split_text(
    text: str,
    offsets: Sequence[tuple[int, int]],
    max_words: int,
    context: int,
    costs: Sequence[int] | None = None,
) -> list[Window]:
    """Cut a text into windows.

    Args:
        text: The whole text.
        offsets: Characters `[start, end)` of each word, as from `split_words`.
        max_words: Most words that one window decides, at least 1.
        context: Most words shown on each side in addition, at least 0. A window shows at most
            `max_words + 2 * context` words.
        costs: What each word costs, say its number of tokens; `max_words` and `context` then count
            these. A single word that costs more than `max_words` has a window of its own. Defaults
            to 1 for each word.

    Returns:
        Windows in order. `[start, end)` of them tile all words exactly once; none for no words.

    Raises:
        TextError: If `max_words` or `context` is out of range, or costs do not match the words.

    Example:
        >>> from nomina.entities import split_words
        >>> text = "It rained. We stayed in."
        >>> for window in split_text(text, split_words(text), max_words=5, context=2):
        ...     print(window)
        Window(start=0, end=3, context_start=0, context_end=5)
        Window(start=3, end=7, context_start=1, context_end=7)
    """
    if max_words < 1 or context < 0:
        raise TextError(
            "max_words must be at least 1 and context at least 0, "
            f"were: max_words={max_words}, context={context}"
        )
    num_words = len(offsets)
    if costs is None:
        total: Sequence[int] = range(num_words + 1)
    elif len(costs) != num_words:
        raise TextError(f"there must be one cost a word, were: {len(costs)} for {num_words} words")
    else:
        total = list(itertools.accumulate(costs, initial=0))
    places: dict[int, list[int]] = {}
    if total[-1] > max_words:
        places = _places(text, offsets)
    windows: list[Window] = []
    start = 0
    while start < num_words:
        # The last index that the budget reaches; never less than one word.
        limit = max(bisect_right(total, total[start] + max_words) - 1, start + 1)
        end = num_words if limit >= num_words else _cut(offsets, places, total, start, limit)
        windows.append(
            Window(
                start,
                end,
                bisect_left(total, total[start] - context),
                bisect_right(total, total[end] + context) - 1,
            )
        )
        start = end
    return windows


def _cut(
    offsets: Sequence[tuple[int, int]],
    places: dict[int, list[int]],
    total: Sequence[int],
    start: int,
    limit: int,
) -> int:
    budget = total[limit] - total[start]
    for kind in (PARAGRAPH, SENTENCE, LINE, CLAUSE):
        found = places[kind]
        index = bisect_right(found, limit) - 1
        if index >= 0 and found[index] > start:
            if total[found[index]] - total[start] >= _MIN_FILL[kind] * budget:
                return found[index]
    for index in range(limit, start, -1):
        if total[index] - total[start] < _MIN_FILL[GAP] * budget:
            break
        if offsets[index - 1][1] < offsets[index][0]:
            return index
    return limit


def merge_spans(
    windows: Sequence[Window], predicted: Sequence[Sequence[tuple[Span, float]]]
) -> list[tuple[Span, float]]:
    """Put the entities found in windows together.

    An entity belongs to the window that decides its first word; what other windows see of it in
    their context is left out. It may run over the end of its window into the context and stays
    whole. Where it then meets entities of the next windows, the most probable one is kept, of two
    as probable the longer one, and then whatever else does not overlap what is kept.

    Args:
        windows: As from `split_text`.
        predicted: Spans and scores of each window, in words of the whole text.

    Example:
        >>> windows = [Window(0, 3, 0, 5), Window(3, 6, 1, 6)]
        >>> spans = [[(Span(2, 4, "city"), 0.9)], [(Span(2, 4, "city"), 0.8), (Span(5, 6, "x"), 1)]]
        >>> merge_spans(windows, spans)
        [(Span(start=2, end=4, label='city'), 0.9), (Span(start=5, end=6, label='x'), 1)]
    """
    decided = [
        (span, score)
        for window, found in zip(windows, predicted, strict=True)
        for span, score in sorted(found)
        if window.start <= span.start < window.end
    ]
    merged: list[tuple[Span, float]] = []
    group: list[tuple[Span, float]] = []  # neighbours that overlap, of which not all can stay
    end = 0
    for item in decided:
        if item[0].start >= end:
            merged += _apart(group)
            group = []
        group.append(item)
        end = max(end, item[0].end)
    return merged + _apart(group)


def _apart(group: list[tuple[Span, float]]) -> list[tuple[Span, float]]:
    """Return the best of spans that overlap, and the best of the rest, while they fit."""
    if len(group) < 2:
        return group
    kept: list[tuple[Span, float]] = []
    for span, score in sorted(
        group, key=lambda item: (item[1], item[0].end - item[0].start, item[0]), reverse=True
    ):
        if all(span.end <= other.start or other.end <= span.start for other, _ in kept):
            kept.append((span, score))
    return sorted(kept)


def split_sentences(text: str, offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the sentences of a text in words, `[start, end)` each; they tile all words.

    Careful rather than complete: after an abbreviation, an initial or a short number, and before a
    lower-case word, nothing is cut.

    Example:
        >>> from nomina.entities import split_words
        >>> text = "Dr. J. Watson paid 3.50 to ACME Inc. of N.Y. He left! 東京です。寒い。"
        >>> offsets = split_words(text)
        >>> for start, end in split_sentences(text, offsets):
        ...     print(text[offsets[start][0]:offsets[end - 1][1]])
        Dr. J. Watson paid 3.50 to ACME Inc. of N.Y. He left!
        東京です。
        寒い。
    """
    if not offsets:
        return []
    places = _places(text, offsets)
    cuts = sorted({0, len(offsets), *places[SENTENCE], *places[PARAGRAPH]})
    return list(itertools.pairwise(cuts))


# --------------------------------------------------------------------------------------------------
# Where sentences end

# Unicode's Sentence_Terminal characters that scripts in use need, with Tibetan shads, the Greek
# question mark and the ellipsis, which Unicode leaves out. The ASCII ones stand first.
_FULL_STOPS = (
    "\u0589\u061d-\u061f\u06d4\u0700-\u0702\u07f9\u0837\u0839\u083d\u083e\u0964\u0965\u0f0d-\u0f12"
    "\u104b\u1362\u1367\u1368\u166e\u1735\u1736\u17d4\u17d5\u1803\u1809\u1944\u1945\u1aa8-\u1aab"
    "\u1b5a\u1b5b\u1b5e\u1b5f\u1c3b\u1c3c\u1c7e\u1c7f\u203c\u203d\u2047-\u2049\u2e2e\u3002\ua4ff"
    "\ua60e\ua60f\ua6f3\ua6f7\ua876\ua877\ua8ce\ua8cf\ua92f\ua9c8\ua9c9\uaa5d-\uaa5f\uaaf0\uaaf1"
    "\uabeb\ufe12\ufe15\ufe16\ufe52\ufe56\ufe57\uff01\uff1f\uff61\U00011047\U00011048"
    "\U000111c5\U000111c6"
)
_CLOSERS = "\"'’”»›)\\]}」』）】〉》〕］｝"
_CLAUSES = ",;:،؛፣፤፥၊、，；：—–\u0f0b\u104a"
_SPACELESS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\uffef]"
)


@functools.cache
def _candidates() -> re.Pattern[str]:
    # Each alternative consumes its whole run at once, so that the search stays linear.
    return re.compile(
        rf"(?P<line>[\n\r\v\f\x85\u2028\u2029]\s*)"
        rf"|(?P<end>[.!?…．{_FULL_STOPS}]+[{_CLOSERS}]*)"
        rf"|(?P<clause>[{_CLAUSES}]+)"
        # Thai, Lao, Khmer and Myanmar part phrases by spaces
        r"|(?P<phrase>(?<=[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])[ \u200b]+)"
    )


# Only what often stands in front of a capital letter or a number; keys are folded.
_ABBREVIATIONS = frozenset(
    """
    mr mrs ms dr prof st sr jr hon rev gen col lt sgt capt cmdr gov sen rep pres vs etc inc ltd co
    corp llc plc bros no nos nr fig figs eq eqs sec art arts ch pt vol vols ed eds pp al ref refs
    cf ca approx dept est mt ft jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed
    thu thur thurs fri sat sun ave blvd rd univ assn
    hr fr frl abs bd bzw geb str tel ggf usw evtl mio mrd okt dez prov dipl ing
    mme mlle mgr me sra srta dra dña ud uds lic avda núm núms pág págs
    dhr mevr drs mej sig dott ecc avv
    г гг ул им см стр руб тыс млн млрд проф акад др пр
    op cit ibid viz resp adj e.g i.e
    """.split()
)


def _places(text: str, offsets: Sequence[tuple[int, int]]) -> dict[int, list[int]]:
    """Indexes of the words in front of which one may cut, by kind, each list increasing."""
    places: dict[int, list[int]] = {PARAGRAPH: [], SENTENCE: [], LINE: [], CLAUSE: []}
    # A text without capitals says nothing by its lower-case letters.
    is_cased = any(map(str.isupper, text[:10_000])) and text[:10_000] != text[:10_000].upper()
    num_words = len(offsets)
    index = 0
    for match in _candidates().finditer(text):
        position = match.end()
        while index < num_words and offsets[index][0] < position:
            index += 1
        if index == num_words:
            break
        if index == 0 or offsets[index - 1][1] > position:
            continue  # before the first word, or inside one
        kind = CLAUSE
        if match.lastgroup == "line":
            breaks = match.group()
            count = max(breaks.count("\n"), breaks.count("\r"))
            is_paragraph = count > 1 or "\u2029" in breaks or "\f" in breaks
            kind = PARAGRAPH if is_paragraph else LINE
        elif match.lastgroup == "end" and _is_end(text, match, offsets[index][0], is_cased):
            kind = SENTENCE
        found = places[kind]
        if not found or found[-1] != index:
            found.append(index)
    return places


def _is_end(text: str, match: re.Match[str], following: int, is_cased: bool) -> bool:
    """Tell whether a run of stops, with closing marks behind, ends a sentence."""
    stops = match.group()
    first = stops[0]
    if first not in ".!?…．":
        return True
    follower = text[following]
    start = match.start()
    before = text[start - 1] if start else ""
    if following == match.end():  # no space behind: a.b, what?! or the end of a Chinese sentence
        return bool(_SPACELESS.match(follower) and (first != "." or _SPACELESS.match(before)))
    if is_cased and follower.islower():
        return False
    if first != "." or stops[1:2] == ".":
        return True
    # The run of letters and digits in front of the stop; 24 is longer than any abbreviation.
    head = max(0, start - 24)
    word = _LAST_WORD.search(text, head, start)
    if word is None:
        return True
    surface = word.group()
    if surface.isdigit():
        return len(surface) > 2  # "am 3. Oktober", "1. Introduction", but "in 1999."
    if len(surface) == 1 and surface.lower() != surface.upper():
        return False  # an initial, or the end of U.S.
    return surface.casefold() not in _ABBREVIATIONS


_LAST_WORD = re.compile(r"[^\W_]+\Z")
