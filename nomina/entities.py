"""Words, tags, spans, labels: the plain data that every other room hands around.

Text is cut into words (`split_words`), entities are spans of words (`Span`) inside the package and
spans of characters (`Entity`) at its door, and BIO tags are read and written here and nowhere else.
All offsets are half-open, `[start, end)`, and count Python characters (code points).

Knows nothing of files, formats, tokenizers or models.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from nomina.errors import DataError, LabelError

MAX_WORD_CHARS = 100  # longer runs are cut, so that one "word" can never outgrow a model's window


class Span(NamedTuple):
    """An entity in words: `words[start:end]` carry `label`."""

    start: int
    end: int
    label: str


@dataclass(frozen=True, slots=True)
class Entity:
    """An entity in characters: `text[start:end]` of the document is `self.text`.

    Attributes:
        text: The entity as it stands in the document.
        label: Name of its type, as the caller spelled it.
        start: Offset of its first character.
        end: Offset behind its last character.
        score: Probability of the entity, 0 to 1; 1.0 for gold entities.

    Example:
        >>> Entity("george clooney", "actor", 4, 18, 0.97).to_dict()
        {'text': 'george clooney', 'label': 'actor', 'start': 4, 'end': 18, 'score': 0.97}
    """

    text: str
    label: str
    start: int
    end: int
    score: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return the entity as a JSON-ready dict; the score is rounded to four digits."""
        return {
            "text": self.text,
            "label": self.label,
            "start": self.start,
            "end": self.end,
            "score": round(self.score, 4),
        }


# --------------------------------------------------------------------------------------------------
# Labels


@dataclass(frozen=True, slots=True)
class Label:
    """An entity type in plain words.

    Attributes:
        name: What the user calls it and what entities carry.
        definition: One sentence that says what belongs to it; empty for none.
        examples: Surfaces that are of this type.
        color: A colour name or `#rrggbb` for displays; empty for automatic.
    """

    name: str
    definition: str = ""
    examples: tuple[str, ...] = ()
    color: str = ""


@dataclass(frozen=True)
class LabelSet(Sequence[Label]):
    """The ordered, checked set of types that a call asks for.

    Example:
        >>> LabelSet.of({"actor": "a person who plays a role in a film", "year": ""}).names
        ('actor', 'year')

    Raises:
        LabelError: If there is no label, a name is empty, doubled (case and spacing ignored), or
            has control characters or line breaks.
    """

    labels: tuple[Label, ...]

    def __post_init__(self) -> None:
        if not self.labels:
            raise LabelError(
                "`labels` must name at least one entity type, was: []. "
                'Example: tagger(text, labels=["person", "city"])'
            )
        seen: dict[str, str] = {}
        for label in self.labels:
            if not isinstance(label, Label):
                raise LabelError(
                    f"a `LabelSet` is made of `Label`, was: {label!r}. Use LabelSet.of"
                )
            parts = [("name", label.name), ("definition", label.definition)]
            parts += [("example", example) for example in label.examples]
            for what, value in parts:
                if not isinstance(value, str):
                    raise LabelError(f"a label's {what} must be a string, was: {value!r}")
                bad = next((c for c in value if _is_control(c)), None)
                if bad is not None:
                    raise LabelError(
                        f"a label's {what} must be one line without control characters or halves "
                        f"of surrogate pairs, was: {value!r} (has {bad!r}). Write it in one line."
                    )
            if not label.name.strip():
                raise LabelError(
                    f"a label must have a name, was: {label.name!r}. Remove the empty label."
                )
            key = normalize_label(label.name)
            if key in seen:
                raise LabelError(
                    f"labels must differ, but {seen[key]!r} and {label.name!r} are the same. "
                    "Remove one of them."
                )
            seen[key] = label.name

    @staticmethod
    def of(labels: Labels) -> LabelSet:
        """Build a label set from what callers write.

        Args:
            labels: Names; or names with definitions; or names with a mapping of `definition`,
                `guideline`, `examples`, `color`; or `Label` objects; or a ready `LabelSet`.

        Raises:
            LabelError: If the labels cannot be used, or are of another type.
        """
        if isinstance(labels, LabelSet):
            return labels
        if isinstance(labels, str):
            raise LabelError(
                f"`labels` must be a list of names or a dict, was the string {labels!r}. "
                f"Example: labels={[part.strip() for part in labels.split(',')]!r}"
            )
        if not isinstance(labels, Iterable):
            raise LabelError(f"`labels` must be a list of names or a dict, was: {labels!r}")
        items = labels.items() if isinstance(labels, Mapping) else ((x, None) for x in labels)
        return LabelSet(tuple(_label(name, rest) for name, rest in items))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the labels, in order."""
        return tuple(label.name for label in self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __contains__(self, item: object) -> bool:
        return item in self.labels or item in self.names

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    def __getitem__(self, index: Any) -> Any:
        return self.labels[index]


Labels = LabelSet | Mapping[str, Any] | Iterable[str | Label]  # what callers write


def _is_control(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Zl", "Zp", "Cs")


def _label(name: Any, rest: Any) -> Label:
    if isinstance(name, Label):
        return name
    if not isinstance(name, str):
        raise LabelError(f"a label must be a string, was: {name!r} ({type(name).__name__})")
    name = name.strip(" ")
    if rest is None or isinstance(rest, str):
        return Label(name, (rest or "").strip())
    if isinstance(rest, Label):
        return dataclasses.replace(rest, name=name)
    if not isinstance(rest, Mapping):
        raise LabelError(f"label {name!r} needs a definition (a string or a table), was: {rest!r}")
    known = {"definition", "guideline", "examples", "color"}
    if unknown := sorted(map(str, set(rest) - known)):
        raise LabelError(
            f"label {name!r} has unknown keys {unknown}; known are {sorted(known)}. "
            "Check for a typo."
        )
    examples = rest.get("examples") or ()
    is_list = isinstance(examples, Iterable) and not isinstance(examples, (str, Mapping))
    if not is_list or not all(isinstance(x, str) for x in examples):
        raise LabelError(f"`examples` of label {name!r} must be a list of strings: {examples!r}")
    parts = [str(rest.get(key) or "").strip() for key in ("definition", "guideline")]
    definition = " ".join(part for part in parts if part)
    return Label(name, definition, tuple(examples), str(rest.get("color") or ""))


def normalize_label(name: str) -> str:
    """Fold a label's name for comparison: case, underscores and spacing do not count.

    Example:
        >>> normalize_label("Programming_Language")
        'programming language'
    """
    return " ".join(name.replace("_", " ").casefold().split())


# --------------------------------------------------------------------------------------------------
# Words <-> characters

# Scripts written without spaces: each character (with its marks) is a word of its own.
_CONTINUOUS = (
    "\u0e00-\u0e4f\u0e5a-\u0ecf\u0eda-\u0eff"  # Thai, Lao
    "\u1000-\u103f\u104a-\u109f\u1780-\u17df\u1950-\u19df\u1a20-\u1aaf"  # Myanmar, Khmer, Tai
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3040-\u30ff\u3100-\u312f\u31a0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f"
    "\U00020000-\U0003ffff"
)


@functools.cache
def _word_pattern() -> re.Pattern[str]:
    # Marks and format characters (combining accents, ZWJ, variation selectors) never stand alone.
    ranges: list[list[int]] = []
    for code in (*range(0x300, 0x20000), *range(0xE0000, 0xE0200), 0xAD):
        if unicodedata.category(chr(code)) in ("Mn", "Mc", "Me", "Cf"):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    marks = "".join(f"{chr(a)}-{chr(b)}" for a, b in ranges) + "\U0001f3fb-\U0001f3ff"
    mark = f"[{marks}]"
    limit = MAX_WORD_CHARS
    cap = f"{{0,{limit}}}"
    return re.compile(
        rf"[{_CONTINUOUS}]{mark}{cap}"  # one character of a script without spaces
        rf"|[0-9]{{1,{limit}}}(?:[.,][0-9]{{1,20}}){{1,8}}(?!\w)"  # 1,000.50 is one word
        rf"|(?:(?![{_CONTINUOUS}_])[\w{marks}]){{1,{limit}}}"  # letters, digits and their marks
        rf"|[\U0001f1e6-\U0001f1ff]{{2}}"  # a flag
        rf"|\S{mark}{cap}(?:(?<=\u200d)\S{mark}{cap}){{0,8}}"  # a sign, an emoji
    )


_ASCII = re.compile(
    rf"[0-9]{{1,{MAX_WORD_CHARS}}}(?:[.,][0-9]{{1,20}}){{1,8}}(?![0-9A-Za-z_])"
    rf"|[0-9A-Za-z]{{1,{MAX_WORD_CHARS}}}|\S"
)


def split_words(text: str) -> list[tuple[int, int]]:
    r"""Cut text into words; return the offsets of each.

    Letters and digits stay together, signs stand alone, and in scripts without spaces (Chinese,
    Japanese, Thai, Khmer ...) every character with its marks is a word. Every character that is
    not white space belongs to exactly one word, and no word is longer than about
    `MAX_WORD_CHARS` characters, so `text` can always be rebuilt from the offsets and the gaps.

    Example:
        >>> text = "Paris's O2-arena, 東京"
        >>> [text[a:b] for a, b in split_words(text)]
        ['Paris', "'", 's', 'O2', '-', 'arena', ',', '東', '京']
    """
    return _split_range(text, 0, len(text))


def _split_range(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Cut a part of a text as if nothing stood before and behind it."""
    is_ascii = text.isascii() or text[start:end].isascii()
    pattern = _ASCII if is_ascii else _word_pattern()  # the same words, at twice the speed
    return [match.span() for match in pattern.finditer(text, start, end)]


def join_words(words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Join words with single spaces; return the text and the offsets of each word.

    Example:
        >>> join_words(["in", "Paris", "."])
        ('in Paris .', [(0, 2), (3, 8), (9, 10)])
    """
    return " ".join(words), _joined_offsets(words)


def _joined_offsets(words: Iterable[str]) -> list[tuple[int, int]]:
    end = -1
    return [(start := end + 1, end := start + len(word)) for word in words]


_NO_SPACE_BEFORE = frozenset(".,;:!?)]}%’”…") | {"'s", "'re", "'ve", "'ll", "'d", "'m", "n't"}
_NO_SPACE_BEFORE |= frozenset({"...", "''", "’s", "n’t", "’re", "’ve", "’ll", "’d", "’m"})
_NO_SPACE_AFTER = frozenset("([{$£€#@“‘") | {"``"}
_CONTINUOUS_CHAR = re.compile(f"[{_CONTINUOUS}\u3000-\u303f\uff00-\uffef]")


def restore_spacing(words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Join words of a corpus the way people type; return the text and the offsets of each word.

    Undoes what corpora do to text: no space before closing punctuation, after an opening bracket,
    inside straight quotes, around a hyphen or slash between two words, or between characters of
    scripts without spaces. The words themselves are not changed.

    Example:
        >>> restore_spacing(["He", "said", "(", "in", "Paris", ")", ",", '"', "no", '"', "."])[0]
        'He said (in Paris), "no".'
    """
    parts: list[str] = []
    offsets: list[tuple[int, int]] = []
    position = 0
    is_quote_open = False
    glue_next = True
    for index, word in enumerate(words):
        after = words[index + 1] if index + 1 < len(words) else ""
        glue = glue_next or word in _NO_SPACE_BEFORE
        glue_next = word in _NO_SPACE_AFTER
        if word == '"':
            glue, glue_next = glue or is_quote_open, not is_quote_open
            is_quote_open = not is_quote_open
        elif word == "'" and after in ("s", "t", "re", "ve", "ll", "d", "m"):
            glue = glue_next = True
        elif word in ("-", "/") and index and after:
            if words[index - 1][-1:].isalnum() and after[:1].isalnum():
                glue = glue_next = True
        elif index and _CONTINUOUS_CHAR.match(word) and _CONTINUOUS_CHAR.match(words[index - 1]):
            glue = True
        if not glue:
            parts.append(" ")
            position += 1
        parts.append(word)
        offsets.append((position, position + len(word)))
        position += len(word)
    return "".join(parts), offsets


# --------------------------------------------------------------------------------------------------
# Tags <-> spans

SCHEMES = ("BIO", "IOB1", "BIOES")


def tags_to_spans(tags: Sequence[str]) -> list[Span]:
    """Read tags of any common scheme as spans of words.

    BIO (IOB2), IOB1, BIOES and BILOU are understood at once, because their tags do
    not contradict each other: `B-`, `S-` and `U-` start an entity; `I-`, `E-` and `L-` go on with
    one of the same label or start one; `E-`, `L-`, `S-` and `U-` end it.

    Args:
        tags: One tag a word; `O` or the empty string is outside.

    Raises:
        DataError: If a tag is not `O` and has no `X-` prefix.

    Example:
        >>> tags_to_spans(["O", "B-actor", "I-actor", "I-genre"])
        [Span(start=1, end=3, label='actor'), Span(start=3, end=4, label='genre')]
    """
    spans: list[Span] = []
    start, last, open_label = 0, -1, None
    for index, tag in [(i, tag) for i, tag in enumerate(tags) if tag != "O"]:  # few words
        prefix, label = _split_tag(tag)
        goes_on = index == last + 1 and prefix not in "OBSU" and label == open_label
        if open_label is not None and not goes_on:
            spans.append(Span(start, last + 1, open_label))
            open_label = None
        if prefix == "O":
            continue
        if open_label is None:
            start, open_label = index, label
        last = index
        if prefix in "ELSU":
            spans.append(Span(start, index + 1, label))
            open_label = None
    if open_label is not None:
        spans.append(Span(start, last + 1, open_label))
    return spans


@functools.lru_cache(maxsize=4096)
def _split_tag(tag: str) -> tuple[str, str]:
    if tag in ("O", ""):
        return "O", ""
    prefix, dash, label = tag.partition("-")
    if not dash or prefix not in ("B", "I", "E", "S", "L", "U") or not label:
        raise DataError(f"a tag must be O or like B-person, I-person, was: {tag!r}")
    return prefix, sys.intern(label)  # corpora repeat few labels many times


def spans_to_tags(spans: Iterable[Span], num_words: int, scheme: str = "BIO") -> list[str]:
    """Write spans of words as tags, one a word.

    Args:
        spans: Spans that do not overlap, in any order.
        num_words: Length of the sentence.
        scheme: "BIO" (IOB2), "IOB1" or "BIOES". Defaults to "BIO".

    Raises:
        DataError: If two spans overlap, or one is empty or outside the sentence.

    Example:
        >>> spans_to_tags([Span(1, 3, "actor")], 4)
        ['O', 'B-actor', 'I-actor', 'O']
    """
    if scheme not in SCHEMES:
        raise DataError(f"scheme must be one of {SCHEMES}, was: {scheme!r}")
    tags = ["O"] * num_words
    last = Span(-1, -1, "")
    for span in sorted(spans):
        if not 0 <= span.start < span.end <= num_words:
            raise DataError(f"{span} is empty or outside a sentence of {num_words} words")
        if span.start < last.end:
            raise DataError(f"{span} overlaps {last}; tags cannot say that")
        for index in range(span.start, span.end):
            tags[index] = f"I-{span.label}"
        if scheme != "IOB1" or (span.start == last.end and span.label == last.label):
            tags[span.start] = f"B-{span.label}"
        if scheme == "BIOES":
            tags[span.end - 1] = f"E-{span.label}"
            if span.end - span.start == 1:
                tags[span.start] = f"S-{span.label}"
        last = span
    return tags


# --------------------------------------------------------------------------------------------------
# Examples


@dataclass(frozen=True)
class Example:
    """A text with its words and gold entities.

    What is built from words, or from entities in characters, is cut when somebody first asks for
    what it was not built from: converting a file from text to text never cuts it into words.

    Attributes:
        text: The text, as it is or as it was rebuilt.
        offsets: Characters `[start, end)` of each word, in order, not overlapping.
        spans: Gold entities in words, sorted, not overlapping.
        id: Name of the example inside its corpus; empty for none.
        labels: The label set it was annotated with, if it has one of its own.
        source: Where it comes from: a corpus, or a file.

    Example:
        >>> example = Example.from_tags(["in", "New", "York"], ["O", "B-city", "I-city"])
        >>> example.entities()
        [Entity(text='New York', label='city', start=3, end=11, score=1.0)]
    """

    text: str
    offsets: tuple[tuple[int, int], ...]
    # A factory, not `()`: a default would be an attribute of the class, and `__getattr__` not asked
    spans: tuple[Span, ...] = field(default_factory=tuple)
    id: str = ""
    labels: LabelSet | None = None
    source: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)
    # What it was built from, as long as the rest was not asked for; not arguments, so that
    # `dataclasses.replace` starts from "not known".
    _words: tuple[str, ...] | None = field(default=None, init=False, compare=False, repr=False)
    _entities: tuple[Entity, ...] | None = field(
        default=None, init=False, compare=False, repr=False
    )
    # Whether `from_entities` made it, so that nobody need cut the text again to know its words.
    _is_cut_by_us: bool = field(default=False, init=False, compare=False, repr=False)

    @classmethod
    def _of(cls, text: str, rest: Mapping[str, Any], **known: Any) -> Example:
        """Build an example without some of its fields, which follow from others."""
        if not rest.keys() <= {"id", "labels", "source", "extra"}:
            raise TypeError(f"not attributes of an example: {sorted(rest)}")
        example = object.__new__(cls)
        values = {"text": text, "id": "", "labels": None, "source": "", **known, **rest}
        if "extra" not in rest:
            values["extra"] = {}
        for name, value in values.items():  # as `__init__` does it: a dict of its own is large
            object.__setattr__(example, name, value)
        return example

    @staticmethod
    def from_words(words: Sequence[str], spans: Iterable[Span] = (), **rest: Any) -> Example:
        """Build an example from words, joined by single spaces, and spans, sorted and apart.

        Example:
            >>> Example.from_words(["in", "Paris"], [Span(1, 2, "city")]).tags
            ['O', 'B-city']
        """
        words = tuple(words)
        return Example._of(" ".join(words), rest, spans=tuple(spans), _words=words)

    @staticmethod
    def from_tags(words: Sequence[str], tags: Sequence[str], **rest: Any) -> Example:
        """Build an example from words and tags of any scheme; words are joined by spaces.

        Raises:
            DataError: If there are not as many tags as words, or a tag is malformed.
        """
        if len(words) != len(tags):
            raise DataError(f"{len(words)} words but {len(tags)} tags: {list(words)[:8]} ...")
        return Example.from_words(words, tags_to_spans(tags), **rest)

    @staticmethod
    def from_entities(text: str, entities: Iterable[Entity], **rest: Any) -> Example:
        """Build an example from a text and character spans; words are cut at their borders too.

        Raises:
            DataError: If an entity is empty, outside the text, or overlaps another.
        """
        ordered = sorted(entities, key=_borders)
        position = 0
        for entity in ordered:
            if not 0 <= entity.start < entity.end <= len(text):
                raise DataError(
                    f"entity {entity.label!r} [{entity.start}, {entity.end}) is empty or outside "
                    f"a text of {len(text)} characters"
                )
            if entity.start < position:
                raise DataError(
                    f"entity {entity.label!r} [{entity.start}, {entity.end}) overlaps another one"
                )
            if text[entity.start : entity.end].isspace():
                raise DataError(
                    f"entity {entity.label!r} [{entity.start}, {entity.end}) is white space"
                )
            position = entity.end
        return Example._of(text, rest, _entities=tuple(ordered), _is_cut_by_us=True)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Cut the text into words when somebody first asks for them."""
            if name in ("offsets", "spans"):
                words, entities = self._words, self._entities
                if words is not None:
                    object.__setattr__(self, "offsets", tuple(_joined_offsets(words)))
                    object.__setattr__(self, "_words", None)
                elif entities is not None:
                    offsets, spans = _cut(self.text, entities)
                    object.__setattr__(self, "offsets", offsets)
                    object.__setattr__(self, "spans", spans)
                    object.__setattr__(self, "_entities", None)
            return object.__getattribute__(self, name)  # or the error of a property

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled and copied: a copy, for another thread may cut the text now."""
        return {**vars(self), "extra": dict(self.extra)}

    @property
    def words(self) -> list[str]:
        """The words as strings."""
        words = self._words
        return [self.text[a:b] for a, b in self.offsets] if words is None else list(words)

    @property
    def tags(self) -> list[str]:
        """The gold entities as BIO tags, one a word."""
        return spans_to_tags(self.spans, len(self._words or self.offsets))

    @property
    def has_default_words(self) -> bool:
        """Whether the words are those that `from_entities` would cut.

        Example:
            >>> Example.from_tags(["New-York"], ["O"]).has_default_words
            False
        """
        if self._is_cut_by_us:
            return True
        cuts = [0]
        for span in self.spans:
            cuts += [self.offsets[span.start][0], self.offsets[span.end - 1][1]]
        cuts.append(len(self.text))
        words: list[tuple[int, int]] = []
        for start, end in itertools.pairwise(cuts):
            words += _split_range(self.text, start, end)
        return tuple(words) == tuple(self.offsets)

    def entities(self) -> list[Entity]:
        """Return the gold entities in characters."""
        text, known = self.text, self._entities
        if known is None:
            return spans_to_entities(text, self.offsets, self.spans)
        return [Entity(text[e.start : e.end], e.label, int(e.start), int(e.end)) for e in known]


def _borders(entity: Entity) -> tuple[int, int]:
    return entity.start, entity.end


def _cut(
    text: str, entities: Iterable[Entity]
) -> tuple[tuple[tuple[int, int], ...], tuple[Span, ...]]:
    """Cut a text into words, at the borders of entities too; they are sorted and apart."""
    offsets: list[tuple[int, int]] = []
    spans: list[Span] = []
    position = 0
    for entity in entities:
        offsets += _split_range(text, position, entity.start)
        first = len(offsets)
        offsets += _split_range(text, entity.start, entity.end)
        spans.append(Span(first, len(offsets), entity.label))
        position = entity.end
    offsets += _split_range(text, position, len(text))
    return tuple(offsets), tuple(spans)


def spans_to_entities(
    text: str,
    offsets: Sequence[tuple[int, int]],
    spans: Iterable[Span],
    scores: Iterable[float] | None = None,
) -> list[Entity]:
    """Turn spans of words into entities with character offsets.

    Args:
        text: The document.
        offsets: Character offsets of each word.
        spans: Spans of words.
        scores: A probability for each span. Defaults to 1.0 each.
    """
    spans = list(spans)
    entities = []
    for (first, last, label), score in zip(
        spans, scores if scores is not None else [1.0] * len(spans), strict=True
    ):
        start, end = offsets[first][0], offsets[last - 1][1]
        entities.append(Entity(text[start:end], label, start, end, score))
    return entities
