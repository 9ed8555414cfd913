"""Everything nomina raises on purpose, in one tree.

::

    NominaError
    ├── LabelError        (ValueError)   a label or a set of labels cannot be used
    ├── TextError         (ValueError)   an input text cannot be read
    ├── DataError         (ValueError)   a corpus, prediction or label file is malformed
    ├── FormatError       (ValueError)   a completion or an example does not fit a format
    ├── GroundingError    (ValueError)   a vocabulary cannot spell what must be copied
    ├── ModelError        (RuntimeError) a model cannot be found, read or prepared
    ├── RecipeError       (ValueError)   a training recipe is wrong
    └── MissingExtraError (ImportError)  an optional dependency is not installed

A message says what was expected, what was given and what to do. This room knows nothing of the
rest of the package.
"""

from __future__ import annotations


class NominaError(Exception):
    """Base of all errors that nomina raises on purpose."""


class LabelError(NominaError, ValueError):
    """A label or a set of labels cannot be used: empty, doubled, or with control characters."""


class TextError(NominaError, ValueError):
    """An input text cannot be read: not a string, or a file that is not UTF-8."""


class DataError(NominaError, ValueError):
    """A corpus, prediction or label file is malformed; the message names the file and the line."""


class FormatError(NominaError, ValueError):
    """An example does not fit a format, or a completion cannot be read as one."""


class GroundingError(NominaError, ValueError):
    """A vocabulary cannot tell apart two things that the model must choose between."""


class ModelError(NominaError, RuntimeError):
    """A model cannot be found, read or prepared."""


class RecipeError(NominaError, ValueError):
    """A training recipe has an unknown key or a value out of range."""


class MissingExtraError(NominaError, ImportError):
    """An optional dependency is not installed; the message is the pip line to run."""

    def __init__(self, package: str, extra: str) -> None:
        self._given = package, extra
        super().__init__(f"`{package}` is needed for this. Run: pip install 'nomina[{extra}]'")

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), self._given
