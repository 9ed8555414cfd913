"""What a reader should know of how a text was read: which characters nobody decided, and why.

Knows texts, words and windows as offsets; nothing of models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_MAX_PLACES = 5
_INK = re.compile(r"\S+")
_SURROGATE = re.compile("[\ud800-\udfff]+")


def uncovered(text: str, offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the runs of characters, white space aside, that are in no word.

    Example:
        >>> uncovered("a - b", [(0, 1), (4, 5)])
        [(2, 3)]
    """
    runs = []
    position = 0
    for start, end in (*offsets, (len(text), len(text))):
        if position < start and not text[position:start].isspace():
            runs += [m.span() for m in _INK.finditer(text, position, start)]
        position = max(position, end)
    return runs


def coverage_warnings(
    text: str,
    offsets: Sequence[tuple[int, int]],
    is_known: Callable[[str], bool],
) -> list[str]:
    """Say which characters were not labelled, and which were labelled without being seen.

    Args:
        text: The document.
        offsets: Its words.
        is_known: Tells whether the model's vocabulary can spell a word.

    Example:
        >>> coverage_warnings("a - b", [(0, 1), (4, 5)], str.isascii)
        ['1 character outside all words was not labelled: [2, 3)']
        >>> coverage_warnings("in 東京", [(0, 2), (3, 5)], str.isascii)[0][:56]
        "1 word cannot be spelled in this model's vocabulary and "
    """
    warnings = []
    if runs := uncovered(text, offsets):
        count = sum(end - start for start, end in runs)
        was = (
            "character outside all words was" if count == 1 else "characters outside all words were"
        )
        warnings.append(f"{count} {was} not labelled: {places(runs)}")
    if unknown := [(a, b) for a, b in offsets if not is_known(text[a:b])]:
        words, were = ("word", "was") if len(unknown) == 1 else ("words", "were")
        warnings.append(
            f"{len(unknown)} {words} cannot be spelled in this model's vocabulary and {were} "
            f"labelled by what stands around: {places(unknown)}"
        )
    if not text.isascii() and (halves := [m.span() for m in _SURROGATE.finditer(text)]):
        count = sum(end - start for start, end in halves)
        halves_of, are = ("half", "is") if count == 1 else ("halves", "are")
        warnings.append(
            f"{count} {halves_of} of a surrogate pair {are} no character and {are} read as U+FFFD: "
            f"{places(halves)}"
        )
    return warnings


def places(runs: Sequence[tuple[int, int]]) -> str:
    """Write offsets for a message, the first few.

    Example:
        >>> places([(2, 3), (7, 9)])
        '[2, 3), [7, 9)'
    """
    shown = ", ".join(f"[{start}, {end})" for start, end in runs[:_MAX_PLACES])
    return shown + (", ..." if len(runs) > _MAX_PLACES else "")
