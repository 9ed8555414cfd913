"""Label sets as files: TOML, JSON or YAML with names, definitions, guidelines, examples, colours.

::

    [actor]
    definition = "a person who plays a role in a film"
    guideline = "Not the character."
    examples = ["george clooney"]
    color = "#4c78a8"

    [year]

A name with nothing but a string behind it has that as its definition, and a plain list of names is
a label set too. All of it may stand under a key `labels`.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nomina.corpora.files import read_text, write_whole
from nomina.corpora.jsonl import label_table
from nomina.entities import LabelSet
from nomina.errors import DataError, LabelError, MissingExtraError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

_KEYS = ("definition", "guideline", "examples", "color")
_COLOR = re.compile(r"#[0-9a-fA-F]{3}([0-9a-fA-F]{3})?|[a-zA-Z]+")


def read_labels(path: Path | str) -> LabelSet:
    """Read a label set from a `.toml`, `.json`, `.yaml` or `.yml` file.

    Args:
        path: The file, in UTF-8.

    Raises:
        DataError: If the file cannot be read or parsed, has an unknown key, a value of a wrong
            type, a doubled or empty label, or no label; names file, line and the likely key.
        MissingExtraError: If it is YAML and pyyaml is not installed.
    """
    path = Path(path)
    text = read_text(path)
    data = _parse(path, text)
    if isinstance(data, Mapping) and set(data) == {"labels"}:
        inner = data["labels"]
        if isinstance(inner, list) or (isinstance(inner, Mapping) and not _describes(inner)):
            data = inner
    if isinstance(data, list):
        if bad := [name for name in data if not isinstance(name, str)]:
            raise DataError(f"{path}: a list of labels must hold names only, has: {bad[0]!r}")
    elif isinstance(data, Mapping):
        for name, value in data.items():
            _check(path, text, name, value)
    else:
        raise DataError(f"{path}: expected a table or a list of labels, was: {type(data).__name__}")
    try:
        return LabelSet.of(data)
    except LabelError as error:
        raise DataError(f"{path}: {error}") from error


def write_labels(labels: LabelSet, path: Path | str) -> None:
    """Write a label set as JSON, which `read_labels` reads back.

    Raises:
        DataError: If the file cannot be written, or a colour could not be read back.
    """
    for label in labels:
        if label.color and not _COLOR.fullmatch(label.color):
            raise DataError(_bad_color(str(path), label.name, label.color))
    with write_whole(Path(path)) as file:
        json.dump(label_table(labels), file, ensure_ascii=False, indent=1)
        file.write("\n")


def _describes(table: Mapping[Any, Any]) -> bool:
    """Whether a table is that of one label that is itself called "labels"."""
    return all(
        key in _KEYS
        and (isinstance(part, list) if key == "examples" else isinstance(part, str))
        and (key != "color" or bool(_COLOR.fullmatch(part)))
        for key, part in table.items()
    )


def _parse(path: Path, text: str) -> Any:
    kind = path.suffix.lower()
    if kind == ".toml":
        try:
            return tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # endless nesting, numbers of 5,000 digits
            raise DataError(f"{path}: is not TOML: {error}") from error
    if kind == ".json":
        try:
            return json.loads(text, object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{error.lineno}: is not JSON: {error.msg}") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: {error}") from error
    if kind in (".yaml", ".yml"):
        return _parse_yaml(path, text)
    raise DataError(f"{path}: a label file must end in .toml, .json, .yaml or .yml")


def _parse_yaml(path: Path, text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("pyyaml", "yaml") from error

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """YAML keeps the last of two equal keys; a label must not vanish so."""

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        own = [pair for pair in node.value if pair[0].tag != "tag:yaml.org,2002:merge"]
        _unique([(loader.construct_object(name, deep=True), None) for name, _ in own])
        loader.flatten_mapping(node)  # what is merged in gives way to what stands there
        return dict(
            tuple(loader.construct_object(x, deep=True) for x in pair) for pair in node.value
        )

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise DataError(f"{path}{line}: is not YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: is not YAML: {error}") from error


def _unique(pairs: list[Any]) -> dict[Any, Any]:
    names: dict[Any, Any] = {}
    for name, value in pairs:
        if name in names:
            raise DataError(f"the key {name!r} stands twice. Remove one of them.")
        names[name] = value
    return names


def _check(path: Path, text: str, name: Any, value: Any) -> None:
    if not isinstance(name, str):
        # YAML reads `no:`, `on:` and `1980:` as something else
        raise DataError(f"{path}: a label must be a string, was: {name!r}. Put it in quotes.")
    if value is None or isinstance(value, str):
        return
    if not isinstance(value, Mapping):
        raise DataError(
            f"{_place(path, text, name)}: label {name!r} needs a definition or a table with "
            f"{', '.join(_KEYS)}, was: {value!r}"
        )
    for key, part in value.items():
        place = _place(path, text, str(key), name)
        if key not in _KEYS:
            close = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Known are {', '.join(_KEYS)}."
            raise DataError(f"{place}: label {name!r} has an unknown key {key!r}. {hint}")
        if part is None:  # left empty in YAML
            continue
        if key == "examples":
            if not isinstance(part, list) or not all(isinstance(x, str) for x in part):
                raise DataError(
                    f"{place}: `examples` of label {name!r} must be a list of strings, "
                    f"was: {part!r}"
                )
        elif not isinstance(part, str):
            raise DataError(f"{place}: `{key}` of label {name!r} must be a string, was: {part!r}")
        elif key == "color" and part and not _COLOR.fullmatch(part):
            raise DataError(_bad_color(place, name, part))


def _bad_color(place: str, name: str, color: str) -> str:
    return f"{place}: `color` of label {name!r} must be a name or #rrggbb, was: {color!r}"


def _place(path: Path, text: str, key: str, label: str = "") -> str:
    """File and line of a key; found by its text, behind that of its label."""
    start = max(0, text.find(label)) if label else 0
    match = re.compile(rf"(?<!\w){re.escape(key)}(?!\w)").search(text, start + len(label))
    return f"{path}:{text.count(chr(10), 0, match.start()) + 1}" if match else str(path)
