r"""Read what a model wrote as (word, tag) pairs, as much of it as can be read.

`formats.py` reads well-formed completions; this room reads all others too: brackets that are lost,
nested, or part of a word or a label, labels without `B-`, words without a tag, half completions.
Nothing here fails on any text. Also how words are compared, because reading needs it.

Knows nothing of source words beyond what they look like, and nothing of alignment.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from nomina.entities import LabelSet, split_words
from nomina.errors import FormatError

_PLAIN_TAG = re.compile(r"\((?:O\)|[BI]-)")


class Pair(NamedTuple):
    """A word of a completion with its tag, and where both stand in it, brackets included."""

    word: str
    tag: str
    start: int
    end: int


def read_pairs(
    completion: str,
    format: str = "gner",
    *,
    words: Sequence[str] = (),
    labels: LabelSet | None = None,
) -> list[tuple[str, str]]:
    """Read a completion as (word, tag) pairs, as much of it as can be read.

    Args:
        completion: What the model wrote.
        format: "gner" (`did(O) george(B-actor)`) or "inline" (`did [george](actor)`).
        words: The source words, if known: they tell text in brackets from tags in brackets.
        labels: The labels, if known: they tell where a label with brackets ends, and let labels
            without `B-` and tags without a closing bracket be read.

    Returns:
        Pairs in order. A word may be empty (a tag with nothing before it), hold spaces (several
        words before one tag) or several words of the source. Text behind the last tag of a
        "gner" completion has no tag and is left out.

    Raises:
        FormatError: If the format is unknown.

    Example:
        >>> read_pairs("did(O) george clooney(B-actor) ma")
        [('did', 'O'), ('george clooney', 'B-actor')]
        >>> read_pairs("did [george clooney](actor)", "inline")
        [('did', 'O'), ('george', 'B-actor'), ('clooney', 'I-actor')]
    """
    return [pair[:2] for pair in locate_pairs(completion, format, words=words, labels=labels)]


def locate_pairs(
    completion: str,
    format: str = "gner",
    *,
    words: Sequence[str] = (),
    labels: LabelSet | None = None,
) -> list[Pair]:
    """Do what `read_pairs` does and say where each pair stands; see there.

    The words of an "inline" entity share the place of its whole bracket with the label.

    Raises:
        FormatError: If the format is unknown.

    Example:
        >>> locate_pairs("did [george](actor)", "inline")[1]
        Pair(word='george', tag='B-actor', start=4, end=19)
    """
    names = labels.names if labels else ()
    if format == "gner":
        return _read_gner(completion, words, names)
    if format == "inline":
        return _read_inline(completion, words)
    raise FormatError(f"`format` must be 'gner' or 'inline', was: {format!r}")


@functools.lru_cache(maxsize=256)
def _tag_pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    known = "|".join(
        re.escape(name).replace(r"\ ", r"[ _]+") for name in sorted(names, key=len, reverse=True)
    )
    prefix = r"(?P<{}>[BIbi])[ ]*[-\u2010-\u2014_][ ]*"
    # A label may hold brackets (one level), but never a tag: "(B-x y(O)" lost its bracket.
    label = r"(?:[^()]|\((?!O\)|[BI]-)[^()]*\)){1,120}?"
    patterns = [r"\([ ]*(?P<o>[Oo0])[ ]*\)"]
    if known:
        patterns += [
            rf"\([ ]*{prefix.format('p1')}(?P<l1>{known})[ ]*\)",
            rf"(?<=\S)\({prefix.format('p3')}(?P<l3>{known})(?=\s|$)",  # lost its bracket
            rf"(?<=\S)\([ ]*(?P<l4>{known})[ ]*\)",  # lost its B-
        ]
    patterns += [rf"\([ ]*{prefix.format('p2')}(?P<l2>{label})\)", r"(?<=\S)\((?P<o2>O)(?=\s)"]
    return re.compile("|".join(patterns))


def _read_gner(completion: str, words: Sequence[str], names: tuple[str, ...]) -> list[Pair]:
    pattern = _tag_pattern(names)
    # A source word that looks like a tag is text where a tag follows it at once.
    literal = {word.lower() for word in words if "(" in word and pattern.search(word)}
    pairs: list[Pair] = []
    start = 0
    matches = list(pattern.finditer(completion))
    for index, match in enumerate(matches):
        text = completion[start : match.start()].strip()
        if literal and index + 1 < len(matches) and matches[index + 1].start() == match.end():
            if (text + match.group()).lower() in literal:
                continue
        tag = _tag_of(match, pairs[-1].tag if pairs else "O")
        pairs.append(Pair(text, tag, completion.find(text, start), match.end()))
        start = match.end()
    return pairs


def _tag_of(match: re.Match[str], before: str) -> str:
    group = match.lastgroup or ""  # the label's, because it comes after the prefix's
    if not group.startswith("l"):
        return "O"
    label = match[group].strip()
    if group == "l4":  # without a prefix, equal neighbours are one entity
        return f"{'I' if before.partition('-')[2] == label else 'B'}-{label}"
    return f"{match['p' + group[1:]].upper()}-{label}"


_INLINE_TOKEN = re.compile(r"(\\.)|(\[)|(\][ ]?\()|(\])", re.DOTALL)
_LABEL_END = re.compile(r"((?:[^()\\\n]|\\.|\([^()\n]{0,60}\)){0,120}?)\)", re.DOTALL)


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def _read_inline(completion: str, words: Sequence[str]) -> list[Pair]:
    units: list[tuple[str, str, int, int]] = []  # text, label, and from where to where
    stack: list[tuple[int, int]] = []  # the first unit in an open bracket; where that stands
    buffer: list[str] = []
    position = begun = 0

    def flush(end: int) -> None:
        if text := "".join(buffer):
            units.append((text, "", begun, end))
        buffer.clear()

    while match := _INLINE_TOKEN.search(completion, position):
        buffer.append(completion[position : match.start()])
        position = match.end()
        escaped, opens, closes, _ = match.groups()
        if escaped:
            buffer.append(escaped[1])
        elif opens:
            flush(match.start())
            begun = match.start()
            stack.append((len(units), begun))
        elif closes and stack and (end := _LABEL_END.match(completion, position)):
            flush(match.start())
            first, opened = stack.pop()
            position = begun = end.end()
            label = " ".join(_unescape(end.group(1)).split())
            inside = "".join(unit[0] for unit in units[first:])
            if inside.strip():
                units[first:] = [(inside, label, opened, position)]
        elif closes and not stack:
            buffer.append(match.group())  # text such as "f[x](y)" whose bracket was lost
        elif stack:  # "[text]" without a label: brackets of the text that were not escaped
            flush(match.start())
            first, opened = stack.pop()
            begun = position
            inside = "".join(unit[0] for unit in units[first:])
            units[first:] = [(f"[{inside}]", "", opened, position)]
        else:
            buffer.append(match.group())
    buffer.append(completion[position:])
    flush(len(completion))
    have = {fold(word) for word in words}
    pairs: list[Pair] = []
    for text, label, first, last in units:
        for index, word in enumerate(_cut(text, have)):
            tag = f"{'I' if index else 'B'}-{label}" if label else "O"
            pairs.append(Pair(word, tag, first, last))
    return pairs


def _cut(text: str, have: set[str]) -> list[str]:
    """Cut at white space, and further where a piece is no word of the source."""
    out: list[str] = []
    for piece in text.split():
        if not have or fold(piece) in have:
            out.append(piece)
        else:
            out += [piece[a:b] for a, b in split_words(piece)]
    return out


def read_plain_pairs(completion: str) -> list[tuple[str, str]]:
    r"""Read `word(tag)` pairs as GNER's evaluator does: the first bracket ends a label.

    Its pattern is `\((O|[BI]-.*?)\)`, which takes quadratic time where brackets never close;
    here each closing bracket is looked for once.
    """
    pairs, start, close, line_end = [], 0, -1, -1
    for match in _PLAIN_TAG.finditer(completion):
        if match.start() < start:
            continue  # inside the label before
        inside = match.start() + 1
        if close < inside:
            close = completion.find(")", inside)
            if close < 0:
                break
        if line_end < inside:
            line_end = completion.find("\n", inside) % (len(completion) + 1)
        if line_end < close:
            continue
        text = completion[start : match.start()].strip()
        start = close + 1
        if text:
            pairs.append((text, completion[inside:close].strip()))
    return pairs


# --------------------------------------------------------------------------------------------------
# Comparing words

_SAME = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛`´′ʼ", "'"),
        **dict.fromkeys("“”„‟″«»", '"'),
        **dict.fromkeys("‐‑‒–—―−", "-"),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", None),
    }
)


@functools.lru_cache(maxsize=65536)
def fold(word: str) -> str:
    """Fold a word for comparison: case, accents, compatibility forms, shapes of quotes and dashes.

    Never empty for a word that is not.

    Example:
        >>> fold("Beyoncé"), fold("“"), fold("ﬁlm")
        ('beyonce', '"', 'film')
    """
    if word.isascii():
        folded = word.lower().replace("``", '"').replace("''", '"').replace("`", "'")
        return folded.strip() or word
    folded = unicodedata.normalize("NFKD", word.translate(_SAME)).casefold()
    folded = "".join(char for char in folded if not unicodedata.combining(char))
    folded = unicodedata.normalize("NFC", folded).replace("''", '"').strip()
    return folded or word
