"""nomina: exact, fast, scored entity extraction with a language model.

Importing it loads neither torch nor transformers; what needs them is resolved on first use. It says
how torch's threads are to wait, if torch was not imported before (see `environment`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nomina.documents import Document
from nomina.entities import Entity, Example, Label, LabelSet, Span
from nomina.environment import keep_few_kernels, wait_briefly
from nomina.errors import (
    DataError,
    FormatError,
    GroundingError,
    LabelError,
    MissingExtraError,
    ModelError,
    NominaError,
    RecipeError,
    TextError,
)
from nomina.labels import read_labels

if TYPE_CHECKING:
    from nomina.client import Client
    from nomina.engine import EngineConfig
    from nomina.extractor import Tagger, load
    from nomina.integrations.transformers import pipeline

__version__ = "0.1.0"

wait_briefly()
keep_few_kernels()

__all__ = [
    "Client",
    "DataError",
    "Document",
    "EngineConfig",
    "Entity",
    "Example",
    "FormatError",
    "GroundingError",
    "Label",
    "LabelError",
    "LabelSet",
    "MissingExtraError",
    "ModelError",
    "NominaError",
    "RecipeError",
    "Span",
    "Tagger",
    "TextError",
    "__version__",
    "load",
    "pipeline",
    "read_labels",
]

_LAZY = {
    "Client": "nomina.client",
    "EngineConfig": "nomina.engine",
    "Tagger": "nomina.extractor",
    "load": "nomina.extractor",
    "pipeline": "nomina.integrations.transformers",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'nomina' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
