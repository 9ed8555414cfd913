r"""What a model reads and writes: prompts, targets, and how a completion is read back.

A format turns a sentence (words and the gaps between them), a label set, optional definitions and
demonstrations into a `Prompt`; it says what may be written next (`moves`), which is at once the
definition of the target (the moves of the gold entities) and of grounded decoding (the model
chooses among the moves). One class each; the same contract test for all.

Knows no tokenizer and no model.

`gner` (Ding et al. 2024, "Rethinking Negative Instances for Generative Named Entity Recognition",
section 3.1) writes every word with a tag, `did(O) george(B-actor) clooney(I-actor)`. `inline`
copies the text once with entities in brackets, `did [george clooney](actor)`; in it `[`, `]` and
`\` of the text and `(`, `)` and `\` of labels are escaped by a backslash.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from nomina.entities import Example, LabelSet, Span, normalize_label
from nomina.errors import FormatError


@dataclass(frozen=True, slots=True)
class Sentence:
    """Words to be labelled, with what stands before each.

    Attributes:
        words: The words.
        gaps: White space before each word, reduced to "", " ", a line break or two.
    """

    words: tuple[str, ...]
    gaps: tuple[str, ...]

    @staticmethod
    def of(text: str, offsets: Sequence[tuple[int, int]]) -> Sentence:
        r"""Cut a text at word offsets; runs of white space are reduced to what a model needs.

        Example:
            >>> Sentence.of("a \t b\n\n\n c", [(0, 1), (4, 5), (9, 10)]).gaps
            ('', ' ', '\n\n')
        """
        gaps, last = [], None
        for start, _ in offsets:
            gap = text[last:start] if last is not None else ""
            if gap and gap != " ":
                breaks = gap.count("\n") or len((gap + "x").splitlines()) - 1
                gap = "\n\n" if breaks > 1 else "\n" if breaks else " "
            gaps.append(gap)
            last = _
        return Sentence(tuple(text[a:b] for a, b in offsets), tuple(gaps))

    @property
    def pieces(self) -> list[str]:
        """Each word with the gap before it; joined they are the text."""
        return [gap + word for gap, word in zip(self.gaps, self.words, strict=True)]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is given, in parts that differ in how often they change.

    Attributes:
        prefix: Instruction, labels, definitions, demonstrations: the same for all sentences of a
            call, so that it is computed once.
        pieces: The sentence in pieces that are tokenised one by one, exactly as in the completion.
        suffix: What stands between the sentence and the completion.
    """

    prefix: str
    pieces: tuple[str, ...]
    suffix: str

    @property
    def text(self) -> str:
        """The whole prompt."""
        return self.prefix + "".join(self.pieces) + self.suffix


class State(NamedTuple):
    """Where a completion stands.

    Attributes:
        phase: Name of the place in the format's grammar.
        word: Index of the next word to write.
        start: First word of the open entity, or -1.
        label: Index of the open entity's label, or -1 while unknown.
    """

    phase: str
    word: int
    start: int = -1
    label: int = -1


class Guess(NamedTuple):
    """What will probably be chosen in a state.

    Attributes:
        move: Index of the move.
        kind: What the guess rests on: guesses of a kind come true about equally often.
        odds: How often that is, before anything is known of this text and model.
    """

    move: int
    kind: str
    odds: float


class Format(Protocol):
    """Renders prompts and completions and reads completions back."""

    @property
    def name(self) -> str:
        """What users call it."""

    @property
    def is_piecewise(self) -> bool:
        """Whether words are tokenised one by one, in the prompt as in the completion."""

    def prompt(
        self,
        sentence: Sentence,
        labels: LabelSet,
        definitions: bool = True,
        demonstrations: Sequence[Example] = (),
    ) -> Prompt:
        """Render the prompt."""

    def start(self) -> State:
        """Return the state before anything is written."""

    def moves(self, state: State, sentence: Sentence, labels: Sequence[str]) -> tuple[str, ...]:
        """List what may be written in a state; `("",)` where only the end is left."""

    def advance(self, state: State, move: int, sentence: Sentence) -> State:
        """Return the state behind the move of that index."""

    def gold_move(self, state: State, sentence: Sentence, spans: GoldSpans) -> int:
        """Return the index of the move that leads to the gold spans."""

    def closes(self, state: State, move: int, after: State) -> tuple[int, int, int] | None:
        """Return (start, end, label index) of the entity that a move ends, if it ends one."""

    def likely(self, state: State, sentence: Sentence, seen: dict[State, int]) -> Guess:
        """Guess the move in a state from the words and from moves chosen in other states.

        Speed alone depends on it.
        """

    def parse(self, completion: str) -> list[tuple[str, str]]:
        """Read a well-formed completion as (word, tag) pairs.

        Raises:
            FormatError: If the completion is not well-formed.
        """


def _solved(example: Example, labels: LabelSet) -> tuple[Sentence, list[Span]]:
    """Return a demonstration with those of its spans that are asked for, in the set's spelling."""
    asked = {normalize_label(name): name for name in labels.names}
    spans = [
        span._replace(label=asked[key])
        for span in example.spans
        if (key := normalize_label(span.label)) in asked
    ]
    return Sentence.of(example.text, example.offsets), spans


def _definition_lines(labels: LabelSet) -> list[str]:
    """Return `name: definition; e.g. examples` of each label that has either."""
    lines = []
    for label in labels:
        parts = [label.definition] if label.definition else []
        if label.examples:
            parts.append("e.g. " + ", ".join(label.examples))
        if parts:
            lines.append(f"{label.name}: " + "; ".join(parts))
    return lines


DONE = State("done", -1)
GoldSpans = dict[int, tuple[int, int]]  # first word -> (end, label index)


def target(form: Format, sentence: Sentence, labels: Sequence[str], spans: Sequence[Span]) -> str:
    """Render what the model should write: the moves that lead to the gold spans, joined.

    Raises:
        FormatError: If a span's label is not among the labels.

    Example:
        >>> sentence = Sentence.of("did george clooney act", [(0, 3), (4, 10), (11, 18), (19, 22)])
        >>> target(InlineFormat(), sentence, ["actor"], [Span(1, 3, "actor")])
        'did [george clooney](actor) act'
        >>> target(GnerFormat(), sentence, ["actor"], [Span(1, 3, "actor")])
        'did(O) george(B-actor) clooney(I-actor) act(O)'
    """
    gold = gold_spans(labels, spans)
    state, parts = form.start(), []
    while state != DONE:
        move = form.gold_move(state, sentence, gold)
        parts.append(form.moves(state, sentence, labels)[move])
        state = form.advance(state, move, sentence)
    return "".join(parts)


def gold_spans(labels: Sequence[str], spans: Sequence[Span]) -> GoldSpans:
    """Index spans by their first word: `start -> (end, label index)`.

    Raises:
        FormatError: If a span's label is not among the labels.
    """
    index = {label: i for i, label in enumerate(labels)}
    try:
        return {span.start: (span.end, index[span.label]) for span in spans}
    except KeyError as error:
        raise FormatError(f"label {error} is not among {list(labels)}") from None


# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InlineFormat:
    """The text copied once, entities in brackets: `did [george clooney](actor) make`.

    At each word the model chooses between copying it and opening a bracket, inside one between
    going on and closing it, and behind it among the labels.
    """

    name: str = "inline"
    is_piecewise: bool = True

    def prompt(
        self,
        sentence: Sentence,
        labels: LabelSet,
        definitions: bool = True,
        demonstrations: Sequence[Example] = (),
    ) -> Prompt:
        """Render a prompt: one short line of labels, what defines them, examples, the text."""
        lines = ["Types: " + "; ".join(labels.names)]
        if definitions:
            lines += [f"- {line}" for line in _definition_lines(labels)]
        for example in demonstrations:
            shown, spans = _solved(example, labels)
            lines += ["Text:", "".join(shown.pieces)]
            lines += ["Marked:", target(self, shown, labels.names, spans)]
        prefix = "\n".join([*lines, "Text:", ""])
        return Prompt(prefix, tuple(sentence.pieces), "\nMarked:\n")

    def start(self) -> State:
        """Return the state before anything is written."""
        return State("out", 0)

    def moves(self, state: State, sentence: Sentence, labels: Sequence[str]) -> tuple[str, ...]:
        """List what may be written in a state."""
        phase, word, _, _ = state
        if phase == "label":
            return _label_moves(tuple(labels))
        if word == len(sentence.words):
            return ("",) if phase == "out" else ("](",)
        copy = _escape_word(sentence.words[word])
        gap = sentence.gaps[word]
        if phase == "out":
            return gap + copy, gap + "["
        return (copy,) if phase == "first" else ("](", gap + copy)

    def advance(self, state: State, move: int, sentence: Sentence) -> State:
        """Return the state behind a move."""
        phase, word, start, _ = state
        if phase == "out":
            if word == len(sentence.words):
                return DONE
            return State("first", word, word) if move else State("out", word + 1)
        if phase == "label":
            return State("out", word)
        if phase == "first" or move:
            return State("in", word + 1, start)
        return State("label", word, start)

    def gold_move(self, state: State, sentence: Sentence, spans: GoldSpans) -> int:
        """Return the index of the move that leads to the gold spans."""
        if state.phase == "out":
            return int(state.word in spans)
        if state.phase == "label":
            return spans[state.start][1]
        return int(state.phase == "in" and state.word != spans[state.start][0])

    def closes(self, state: State, move: int, after: State) -> tuple[int, int, int] | None:
        """The label is chosen last, and with it the entity is complete."""
        return (state.start, state.word, move) if state.phase == "label" else None

    def likely(self, state: State, sentence: Sentence, seen: dict[State, int]) -> Guess:
        """Names run over capitalised words; the same words or a start have the same label."""
        phase, word, start, _ = state
        words = sentence.words
        if phase == "label":
            return _likely_label(words[start:word], state, sentence, seen)
        if phase == "in":
            is_inside = word < name_end(words, start)
            return Guess(int(is_inside), f"in, {is_inside}", 0.8)
        if word == len(words):
            return Guess(0, "end", 1.0)
        return Guess(0, *_outside(words, word))

    def parse(self, completion: str) -> list[tuple[str, str]]:
        r"""Read a well-formed completion as (word, tag) pairs; words are split at white space.

        Example:
            >>> InlineFormat().parse(r"see [a \[1\]](note) now")
            [('see', 'O'), ('a', 'B-note'), ('[1]', 'I-note'), ('now', 'O')]
        """
        pairs: list[tuple[str, str]] = []
        position = 0
        for match in _INLINE_ENTITY.finditer(completion):
            pairs += [
                (word, "O") for word in _plain_words(completion[position : match.start("open")])
            ]
            label = _unescape(match["label"])
            words = _plain_words(match["text"])
            pairs += [(word, ("I-" if i else "B-") + label) for i, word in enumerate(words)]
            position = match.end()
        return pairs + [(word, "O") for word in _plain_words(completion[position:])]


def _outside(words: Sequence[str], word: int) -> tuple[str, float]:
    """Return the kind and odds of a guess that a word begins no entity."""
    text = words[word]
    if text[:1].isupper():
        return ("name, first", 0.6) if word == 0 else ("name", 0.35)
    if text[:1].isdigit():
        return "number", 0.7
    return ("word", 0.95) if text[:1].isalpha() else ("mark", 0.99)


def _likely_label(
    words: Sequence[str], state: State, sentence: Sentence, seen: dict[State, int]
) -> Guess:
    last = None
    for other, move in reversed(seen.items()):
        if other.phase == state.phase:
            if other.start == state.start:
                return Guess(move, "label, start", 0.8)
            if sentence.words[other.start : other.word] == words:
                return Guess(move, "label, words", 0.9)
            last = move if last is None else last
    return Guess(last or 0, "label", 0.3)


_LINKS = frozenset("of the for and de la van von der al bin to in on at & - ' . s".split())


def name_end(words: Sequence[str], start: int) -> int:
    """Return where a name that starts at a word probably ends, by capital letters and digits.

    Example:
        >>> name_end(["the", "Bank", "of", "New", "York", "said"], 1)
        5
    """
    end = start + 1
    is_name = words[start][:1].isupper()
    at = end
    while is_name and at < len(words) and at < start + 12:
        if words[at][:1].isupper() or words[at][:1].isdigit():
            end = at + 1
        elif words[at] not in _LINKS or at > end + 1:
            break
        at += 1
    return end


@functools.lru_cache(maxsize=256)
def _label_moves(labels: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_escape_label(label) + ")" for label in labels)


_INLINE_ENTITY = re.compile(
    r"(?<!\\)(?:\\\\)*(?P<open>\[)(?P<text>(?:[^\[\]\\]|\\.)+)\]"
    r"\((?P<label>(?:[^()\\]|\\.)+)\)",
    re.DOTALL,
)


def _plain_words(text: str) -> list[str]:
    if bare := re.search(r"(?:[^\\]|^)(?:\\\\)*([\[\]])", text):
        raise FormatError(
            f"a bracket without a partner in {text!r} at {bare.start(1)}; "
            "a bracket of the text itself is written as \\[ or \\]"
        )
    return [_unescape(word) for word in text.split()]


def _escape_word(word: str) -> str:
    return re.sub(r"([\[\]\\])", r"\\\1", word) if _NEEDS_ESCAPE.search(word) else word


_NEEDS_ESCAPE = re.compile(r"[\[\]\\]")


def _escape_label(label: str) -> str:
    return re.sub(r"([()\\])", r"\\\1", label)


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


# --------------------------------------------------------------------------------------------------

_GNER_INSTRUCTION = """\
Please analyze the sentence provided, identifying the type of entity for each word on a \
token-by-token basis.
Output format is: word_1(label_1), word_2(label_2), ...
We'll use the BIO-format to label the entities, where:
1. B- (Begin) indicates the start of a named entity.
2. I- (Inside) is used for words within a named entity but are not the first word.
3. O (Outside) denotes words that are not part of a named entity.
"""


@dataclass(frozen=True)
class GnerFormat:
    """Every word with its tag, prompt and target byte for byte as GNER was trained on.

    Definitions and demonstrations, which GNER does not have, are put between the tags and the
    sentence only when there are any, so that published checkpoints see the prompt they know.
    """

    name: str = "gner"
    is_piecewise: bool = False

    def prompt(
        self,
        sentence: Sentence,
        labels: LabelSet,
        definitions: bool = True,
        demonstrations: Sequence[Example] = (),
    ) -> Prompt:
        """Render GNER's prompt; the words of the sentence are joined by single spaces."""
        names = ", ".join(labels.names)
        lines = [_GNER_INSTRUCTION, f"Use the specific entity tags: {names} and O."]
        if definitions:
            lines += _definition_lines(labels)
        for example in demonstrations:
            shown, spans = _solved(example, labels)
            lines.append("Sentence: " + " ".join(shown.words))
            lines.append(target(self, shown, labels.names, spans))
        lines.append("Sentence: ")
        pieces = [" " + word if i else word for i, word in enumerate(sentence.words)]
        return Prompt("\n".join(lines), tuple(pieces), "")

    def start(self) -> State:
        """Return the state before anything is written."""
        return State("word", 0)

    def moves(self, state: State, sentence: Sentence, labels: Sequence[str]) -> tuple[str, ...]:
        """List the tags that the next word may get: O, I- of the open entity, then any B-."""
        if state.word == len(sentence.words):
            return ("",)
        text = (" " if state.word else "") + sentence.words[state.word]
        inside = (f"{text}(I-{labels[state.label]})",) if state.label >= 0 else ()
        return (f"{text}(O)", *inside, *(f"{text}(B-{label})" for label in labels))

    def advance(self, state: State, move: int, sentence: Sentence) -> State:
        """Return the state behind a move."""
        _, word, start, label = state
        if word == len(sentence.words):
            return DONE
        if move == 0:
            return State("word", word + 1)
        if label >= 0 and move == 1:
            return State("word", word + 1, start, label)
        return State("word", word + 1, word, move - 1 - (label >= 0))

    def gold_move(self, state: State, sentence: Sentence, spans: GoldSpans) -> int:
        """Return the index of the move that leads to the gold spans."""
        if state.start >= 0 and state.word < spans[state.start][0]:
            return 1
        return 1 + (state.label >= 0) + spans[state.word][1] if state.word in spans else 0

    def closes(self, state: State, move: int, after: State) -> tuple[int, int, int] | None:
        """An entity ends when the next word is not inside it."""
        if state.start >= 0 and after.start != state.start:
            return state.start, state.word, state.label
        return None

    def likely(self, state: State, sentence: Sentence, seen: dict[State, int]) -> Guess:
        """Words are outside until the model says otherwise; names run over capitalised words."""
        words, word = sentence.words, state.word
        if word == len(words):
            return Guess(0, "end", 1.0)
        if state.start >= 0:
            is_inside = word < name_end(words, state.start)
            return Guess(int(is_inside), f"in, {is_inside}", 0.8)
        return Guess(0, *_outside(words, word))

    def parse(self, completion: str) -> list[tuple[str, str]]:
        """Read a well-formed completion as (word, tag) pairs.

        A word may hold brackets or be `(O)` itself: the tag is the last bracket before a space
        whose content reads as a tag.

        Example:
            >>> GnerFormat().parse("f(x)(B-unit (SI)) (O)(O) .(O)")
            [('f(x)', 'B-unit (SI)'), ('(O)', 'O'), ('.', 'O')]
        """
        pairs = []
        position = 0
        while position < len(completion):
            match = _GNER_WORD.match(completion, position)
            if match is None:
                rest = completion[position : position + 40]
                raise FormatError(f"expected word(O) or word(B-label), was: {rest!r}")
            pairs.append((match["word"], match["tag"]))
            position = match.end()
        return pairs


_GNER_WORD = re.compile(
    r" ?(?P<word>[^\s]+?)\((?P<tag>O|[BI]-(?:[^()]|\([^()]*\))+)\)(?=$| (?=\S))"
)

FORMATS: dict[str, Format] = {"inline": InlineFormat(), "gner": GnerFormat()}


def get_format(name: str) -> Format:
    """Return the format of a name.

    Raises:
        FormatError: If there is no such format.
    """
    if name not in FORMATS:
        raise FormatError(f"format must be one of {sorted(FORMATS)}, was: {name!r}")
    return FORMATS[name]
