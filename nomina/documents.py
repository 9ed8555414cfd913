"""A text with the entities found in it, and the ways people look at one.

Knows nothing of models; works for gold and predicted entities alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nomina.entities import Entity


@dataclass(frozen=True)
class Document:
    """What `tagger(text, labels)` returns.

    Attributes:
        text: The input, unchanged.
        entities: Entities sorted by offset, not overlapping; `text[e.start:e.end] == e.text`.
        warnings: What a user should know: characters not labelled, labels that cannot be asked for.

    Example:
        >>> doc = Document("in Paris", (Entity("Paris", "city", 3, 8, 0.9),))
        >>> [entity.text for entity in doc]
        ['Paris']
    """

    text: str
    entities: tuple[Entity, ...] = ()
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.entities)

    def __iter__(self) -> Iterator[Entity]:
        return iter(self.entities)

    def to_dict(self) -> dict[str, Any]:
        """Return the document as a JSON-ready dict with `text`, `entities` and `warnings`."""
        return {
            "text": self.text,
            "entities": [entity.to_dict() for entity in self.entities],
            "warnings": list(self.warnings),
        }
