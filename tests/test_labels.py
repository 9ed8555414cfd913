import pytest

from nomina.entities import Label, LabelSet
from nomina.errors import DataError
from nomina.labels import read_labels, write_labels

WANT = LabelSet(
    (
        Label("actor", "plays a role Not the character.", ("george clooney",), "#4c78a8"),
        Label("year", "a date"),
        Label("genre"),
    )
)
FILES = {
    "a.toml": """
year = "a date"
genre = ""
[actor]
definition = "plays a role"
guideline = "Not the character."
examples = ["george clooney"]
color = "#4c78a8"
""",
    "a.json": """{"labels": {"actor": {"definition": "plays a role",
 "guideline": "Not the character.", "examples": ["george clooney"], "color": "#4c78a8"},
 "year": "a date", "genre": null}}""",
    "a.yaml": """
actor:
  definition: plays a role
  guideline: Not the character.
  examples: [george clooney]
  color: "#4c78a8"
year: a date
genre:
""",
}


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", FILES)
def test_label_files(tmp_path, name):
    if name.endswith("yaml"):
        pytest.importorskip("yaml")
    labels = read_labels(write(tmp_path, name, FILES[name]))
    assert set(labels) == set(WANT)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '["person", "city"]'),
        ("a.toml", 'labels = ["person", "city"]'),
        ("a.toml", "[labels.person]\n[labels.city]\n"),
        ("a.toml", "[person]\n[city]\n"),
        ("a.yml", "- person\n- city\n"),
    ],
)
def test_names_alone(tmp_path, name, content):
    if name.endswith("yml"):
        pytest.importorskip("yaml")
    assert read_labels(write(tmp_path, name, content)).names == ("person", "city")


def test_a_label_may_be_called_labels(tmp_path):
    path = write(tmp_path, "a.toml", '[labels]\ndefinition = "a name of a type"\n')
    assert read_labels(path) == LabelSet((Label("labels", "a name of a type"),))


def test_values_left_empty_are_none(tmp_path):
    pytest.importorskip("yaml")
    (label,) = read_labels(write(tmp_path, "a.yaml", "a:\n  color:\n  examples:\n"))
    assert (label.color, label.examples) == ("", ())
    assert LabelSet.of({"a": {"examples": None}}).names == ("a",)


def test_round_trip(tmp_path):
    write_labels(WANT, tmp_path / "a.json")
    assert read_labels(tmp_path / "a.json") == WANT


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.toml",
            '[person]\ndefinition = "x"\n[actor]\ndefintion = "plays"\n',
            r"a.toml:4: label 'actor' has an unknown key 'defintion'. Did you mean 'definition'\?",
        ),
        (
            "a.toml",
            '[actor]\ncolour_of_it = "red"\n',
            "a.toml:2: .*Known are definition, guideline",
        ),
        (
            "a.toml",
            '[actor]\nexamples = "x"\n',
            "a.toml:2: `examples` of label 'actor' must be a l",
        ),
        ("a.toml", "[actor]\ncolor = 3\n", "a.toml:2: `color` of label 'actor' must be a string"),
        (
            "a.toml",
            '[actor]\ncolor = "#12"\n',
            "a.toml:2: `color` .* a name or #rrggbb, was: '#12'",
        ),
        ("a.toml", "actor = 3\n", "a.toml:1: label 'actor' needs a definition or a table"),
        ("a.toml", "[actor]\n[actor]\n", "a.toml: is not TOML: .*line 2"),
        ("a.toml", "", "must name at least one entity type"),
        ("a.toml", '"" = "x"\n', "must have a name"),
        ("a.toml", "[actor]\n[Actor]\n", "'actor' and 'Actor' are the same"),
        ("a.json", '{"a": "x",\n "a": "y"}', "the key 'a' stands twice"),
        ("a.json", '{"a": "x",\n', "a.json:2: is not JSON"),
        ("a.json", '["a", 1]', "must hold names only, has: 1"),
        ("a.json", '"a"', "expected a table or a list of labels, was: str"),
        ("a.txt", "person", "must end in .toml, .json, .yaml or .yml"),
        ("a.yaml", "a: [x\n", "a.yaml:2: is not YAML"),
        ("a.yaml", "no: x\n", "a label must be a string, was: False. Put it in quotes"),
        ("a.yaml", "a: x\na: y\n", "the key 'a' stands twice"),
        ("a.yaml", "a:\n  definition: 2024-13-45\n", "a.yaml.*: is not YAML: month must be"),
    ],
)
def test_typos_are_named(tmp_path, name, content, message):
    if name.endswith("yaml"):
        pytest.importorskip("yaml")
    path = write(tmp_path, name, content)
    with pytest.raises(DataError, match=message) as caught:
        read_labels(path)
    assert name in str(caught.value)
    with pytest.raises(DataError, match=r"no.toml: cannot be read"):
        read_labels(tmp_path / "no.toml")


@pytest.mark.parametrize(
    "content",
    [
        '[labels]\ncolor = "colour of the product"\nsize = "its size"\n',
        '[labels]\ncolor = "colour of the product"\n',
        '[labels.color]\ndefinition = "of the product"\n[labels.size]\n',
    ],
)
def test_a_label_may_be_called_like_a_key(tmp_path, content):
    assert read_labels(write(tmp_path, "a.toml", content)).names[0] == "color"


def test_yaml_merges_give_way_to_what_stands_there(tmp_path):
    content = "a: &a {definition: one, color: red}\nb:\n  <<: *a\n  definition: two\n"
    first, second = read_labels(write(tmp_path, "a.yaml", content))
    assert (second.definition, second.color) == ("two", "red")
    assert first.definition == "one"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.toml", "a = " + "[" * 5000),
        ("a.yaml", "a: " + "[" * 5000),
        ("a.toml", "a = " + "9" * 5000),
        ("a.json", '{"a": ' + "9" * 5000 + "}"),
    ],
)
def test_endless_values_are_an_error_of_the_file(tmp_path, name, content):
    with pytest.raises(DataError, match=name):
        read_labels(write(tmp_path, name, content))


def test_a_colour_that_cannot_be_read_back_is_not_written(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(DataError, match=r"a\.json: `color` of label 'year' must be .*rgb"):
        write_labels(LabelSet.of([Label("year", color="rgb(1, 2, 3)")]), path)
    assert not path.exists()
