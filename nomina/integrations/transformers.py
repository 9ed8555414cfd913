"""`nomina.pipeline`: what `transformers.pipeline("token-classification")` returns, from a tagger.

Code that was written for a token-classification pipeline with `aggregation_strategy="simple"` goes
on working: a string gives a list of dicts, a list gives a list of such lists, a generator or a
dataset gives an iterator that reads as it goes. The differences are for the better: texts of any
length are read to the end, `word` is the text at its offsets, and `labels` are yours.

Knows the shape of those results; nothing of how entities are found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nomina.documents import Document
from nomina.engine import EngineConfig
from nomina.entities import Example, Labels, LabelSet, normalize_label
from nomina.errors import TextError
from nomina.extractor import Tagger, check_threshold, load

if TYPE_CHECKING:
    from nomina.client import Client

STRATEGIES = ("simple", "first", "average", "max")  # the same here: a word never has two labels
Group = dict[str, Any]


class EntityPipeline:
    """Finds entities and returns them as a token-classification pipeline does.

    Args:
        tagger: What finds them: a local tagger, or a client of a server.
        labels: What to look for: names, or names with definitions.
        threshold: Entities scored below it are left out. Defaults to the model's own.
        ignore_labels: Labels that are looked for, so that nothing else is taken for them, but left
            out of results.
        aggregation_strategy: One of "simple", "first", "average" and "max", which are the same.

    Raises:
        LabelError: If the labels cannot be used.
        TextError: If the strategy is another, or the threshold not a probability.
    """

    task = "token-classification"

    def __init__(
        self,
        tagger: Tagger | Client,
        labels: Labels,
        *,
        threshold: float | None = None,
        ignore_labels: Sequence[str] = (),
        aggregation_strategy: str = "simple",
    ) -> None:
        self.tagger = tagger
        self.labels = LabelSet.of(labels)
        self.threshold = threshold
        self.ignore_labels = _ignored(ignore_labels, self.labels)
        _check_strategy(aggregation_strategy)
        if threshold is not None:
            check_threshold(threshold)

    def __call__(
        self,
        inputs: str | Iterable[Any],
        *,
        labels: Labels | None = None,
        threshold: float | None = None,
        ignore_labels: Sequence[str] | None = None,
        aggregation_strategy: str = "simple",
        is_split_into_words: bool = False,
        delimiter: str | None = None,
        batch_size: int | None = None,
        stride: int | None = None,
        num_workers: int | None = None,
    ) -> Any:
        """Find entities in one text or many.

        Args:
            inputs: A text; a list or tuple of texts; or any other iterable of texts (a generator, a
                dataset), which is read only as results are asked for.
            labels: In place of those of the pipeline.
            threshold: In place of that of the pipeline.
            ignore_labels: In place of those of the pipeline.
            aggregation_strategy: As for the pipeline.
            is_split_into_words: Whether a text is a list of words; offsets are then those of the
                words joined by `delimiter`.
            delimiter: What joins words. Defaults to a space.
            batch_size: Without effect here: how much is read at once is set for the pipeline, and
                results do not depend on it.
            stride: Without effect: long texts are read to the end in any case.
            num_workers: Without effect.

        Returns:
            For a text, a list of dicts with `entity_group` (the label), `score` (numpy float32),
            `word`, `start` and `end`, in the order of the text; for a list or tuple, a list of such
            lists; for another iterable, an iterator of them.

        Raises:
            LabelError: If the labels cannot be used.
            TextError: If a text is not a string, or an option is out of range.
        """
        del batch_size, stride, num_workers
        _check_strategy(aggregation_strategy)
        is_one = isinstance(inputs, str)
        if not is_one and not _is_iterable(inputs):
            raise TextError(
                "expected a text, a list of texts or another iterable of texts, "
                f"was: {type(inputs).__name__}"
            )
        texts: Iterable[Any] = [inputs] if is_one else _walk(inputs)
        is_list = isinstance(inputs, (list, tuple))
        if is_split_into_words:
            if is_list and inputs and isinstance(inputs[0], str):  # type: ignore[index]
                texts = [inputs]
            gap = " " if delimiter is None else delimiter
            texts = (_join(words, gap) for words in texts)
        asked = self.labels if labels is None else LabelSet.of(labels)
        ignored = self.ignore_labels
        if ignore_labels is not None:
            ignored = _ignored(ignore_labels, asked)
        documents = self.tagger.pipe(
            texts,
            asked,
            threshold=self.threshold if threshold is None else threshold,
        )
        results = (_groups(document, ignored) for document in documents)
        if is_one:
            return next(results)
        return list(results) if is_list else results


def pipeline(
    model: str | Tagger | Client | None = None,
    labels: Labels = (),
    *,
    threshold: float | None = None,
    batch_size: int | None = None,
    device: str | int | None = None,
    dtype: Any = None,
    aggregation_strategy: str = "simple",
    ignore_labels: Sequence[str] = (),
) -> EntityPipeline:
    """Make what drops into code written for `transformers.pipeline("token-classification")`.

    Args:
        model: Name, folder or hub id of a model, a tagger, or a client. Defaults to nomina's own.
        labels: What to look for: names, or names with definitions.
        threshold: Entities scored below it are left out. Defaults to the model's own.
        batch_size: Most texts (windows of long ones) read at once. Defaults to the engine's own.
        device: Such as "cpu" or "cuda:0"; or a number as in transformers, -1 for the CPU. Defaults
            to a GPU if there is one.
        dtype: "float32", "bfloat16" or "float16". Defaults to the fastest the machine has.
        aggregation_strategy: "simple", "first", "average" or "max", which are the same here.
        ignore_labels: Labels to leave out of results.

    Raises:
        LabelError: If the labels cannot be used.
        ModelError: If the model cannot be found or read.
        TextError: If an option is out of range.

    Example:
        >>> import nomina
        >>> ner = nomina.pipeline(labels=["actor", "year"])              # doctest: +SKIP
        >>> ner("did george clooney sing")                               # doctest: +SKIP
        [{'entity_group': 'actor', 'score': 0.97, 'word': 'george clooney', 'start': 4, 'end': 18}]
    """
    label_set = LabelSet.of(labels)  # before the model is loaded, which takes seconds
    _check_strategy(aggregation_strategy)
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise TextError(f"batch_size must be a whole number from 1, was: {batch_size!r}")
    if model is None or isinstance(model, str) or hasattr(model, "__fspath__"):
        config = None if batch_size is None else EngineConfig(max_rows=batch_size)
        model = load(model, device=device, dtype=dtype, config=config)
    elif given := [
        name
        for name, value in (("batch_size", batch_size), ("device", device), ("dtype", dtype))
        if value is not None
    ]:
        raise TextError(
            f"{', '.join(given)} cannot be given with a tagger or client that is there already: "
            "set it where that is made"
        )
    return EntityPipeline(
        model,
        label_set,
        threshold=threshold,
        ignore_labels=ignore_labels,
        aggregation_strategy=aggregation_strategy,
    )


def _check_strategy(name: str) -> None:
    if name not in STRATEGIES:
        raise TextError(
            f"aggregation_strategy must be one of {', '.join(STRATEGIES)}, was: {name!r}. nomina "
            "finds entities, not tokens, so that there is nothing to return without aggregation."
        )


def _ignored(names: Any, labels: LabelSet) -> frozenset[str]:
    """Return the labels to leave out, as the set spells them.

    The tag `O`, which transformers ignores by default, may be among them.
    """
    if isinstance(names, str) or not _is_iterable(names):
        raise TextError(f"ignore_labels must be a list of labels, was: {names!r}")
    known = {normalize_label(name): name for name in labels.names}
    wanted = {normalize_label(str(name)): name for name in names if name != "O"}
    if odd := [name for key, name in wanted.items() if key not in known]:
        raise TextError(
            f"ignore_labels has {odd[0]!r}, which is not looked for; labels are "
            f"{', '.join(labels.names)}"
        )
    return frozenset(known[key] for key in wanted)


def _is_iterable(inputs: Any) -> bool:
    is_text = isinstance(inputs, (bytes, dict))
    return not is_text and (hasattr(inputs, "__iter__") or hasattr(inputs, "__getitem__"))


def _walk(inputs: Any) -> Iterator[Any]:
    """Yield what is in an iterable, or in a dataset of torch: those have a length and an index."""
    if hasattr(inputs, "__iter__"):
        yield from inputs
    else:
        for index in range(len(inputs)):
            yield inputs[index]


def _join(words: Any, gap: str) -> Example:
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise TextError(
            f"with is_split_into_words=True a text must be a list of words, was: {words!r:.60}"
        )
    offsets, position = [], 0
    for word in words:
        if word.strip():
            offsets.append((position, position + len(word)))
        position += len(word) + len(gap)
    return Example(gap.join(words), tuple(offsets))


def _groups(document: Document, ignored: frozenset[str]) -> list[Group]:
    return [
        {
            "entity_group": entity.label,
            "score": np.float32(entity.score),
            "word": entity.text,
            "start": entity.start,
            "end": entity.end,
        }
        for entity in document
        if entity.label not in ignored
    ]
