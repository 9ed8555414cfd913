"""Corpora and files: everything people have labelled text in, read as `Example` and written back.

One file a family: `collection` (named sets of `NOMINA_DATA`), and the file formats. `corpus` holds
what they share. Knows nothing of prompts, tokenizers or models.
"""

from nomina.corpora.collection import default_sets, read_index, read_set
from nomina.corpora.corpus import Corpus

__all__ = ["Corpus", "default_sets", "read_corpus", "read_index"]


def read_corpus(name: str, split: str | None = None) -> Corpus:
    """Read a corpus by name (`conll2003`, `conll2003:dev`) or by the path of a file.

    Args:
        name: `NAME` or `NAME:SPLIT` of a set in the folder of `NOMINA_DATA`, or a path.
        split: `train`, `dev` or `test`; the same as writing it behind the name. Defaults to the
            first of these that the set has.

    Raises:
        DataError: If there is no such set, split or file, or it is malformed.
    """
    set_name, _, own_split = name.partition(":")
    return read_set(set_name, split or own_split)
