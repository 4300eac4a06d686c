"""locate(): every key path of any valid TOML document, on its right line."""

import sys
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from facedetd.config.issues import KeyPath, key_text
from facedetd.config.lines import line_of, locate

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCUMENT = '''\
# comment with = and [table]
title = "a # not a comment"
a.b."c.d" = 1
"quoted \\u0041" = 'lit # eral'

[table] # comment
text = """
[not.a.table]
x = 1 \\""" still in
"""""
after = \'\'\'
'' in
\'\'\'\'\'
dates = 1979-05-27 07:32:00
  [table.sub]
  list = [
    1, # one ]
    [2,
     3],
    { k = "}", m.n = [
      "]" ] },
  ]

[[stream]]
id = "a"
[stream.labels]
site = "x"
[[stream.deep]]
[[stream.deep]]
y = 1
[[stream]]

"id" = "b"
'''


def test_document() -> None:
    lines = locate(DOCUMENT)
    expected: dict[KeyPath, int] = {
        ("title",): 2,
        ("a",): 3,
        ("a", "b"): 3,
        ("a", "b", "c.d"): 3,
        ("quoted A",): 4,
        ("table",): 6,
        ("table", "text"): 7,
        ("table", "after"): 11,
        ("table", "dates"): 14,
        ("table", "sub"): 15,
        ("table", "sub", "list"): 16,
        ("table", "sub", "list", 0): 17,
        ("table", "sub", "list", 1): 18,
        ("table", "sub", "list", 1, 0): 18,
        ("table", "sub", "list", 1, 1): 19,
        ("table", "sub", "list", 2): 20,
        ("table", "sub", "list", 2, "k"): 20,
        ("table", "sub", "list", 2, "m"): 20,
        ("table", "sub", "list", 2, "m", "n"): 20,
        ("table", "sub", "list", 2, "m", "n", 0): 21,
        ("stream",): 24,
        ("stream", 0): 24,
        ("stream", 0, "id"): 25,
        ("stream", 0, "labels"): 26,
        ("stream", 0, "labels", "site"): 27,
        ("stream", 0, "deep"): 28,
        ("stream", 0, "deep", 0): 28,
        ("stream", 0, "deep", 1): 29,
        ("stream", 0, "deep", 1, "y"): 30,
        ("stream", 1): 31,
        ("stream", 1, "id"): 33,
    }
    assert lines == expected
    assert set(lines) == paths_of(tomllib.loads(DOCUMENT))
    assert locate(DOCUMENT.replace("\n", "\r\n")) == expected


def test_line_of_falls_back_to_the_nearest_parent() -> None:
    lines = locate(DOCUMENT)
    assert line_of(lines, ("stream", 0, "url")) == 24
    assert line_of(lines, ("nothing", "here")) == 1


def test_key_text() -> None:
    assert key_text(("stream", 2, "url")) == "stream[2].url"
    assert key_text(("a b", "\n")) == '"a b"."\\u000a"'
    assert key_text(()) == ""


def paths_of(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = {path} if path else set()
    for key, item in items:
        found |= paths_of(item, (*path, key))
    return found


# A writer of random documents that knows on which line it puts what.

_keys = st.one_of(
    st.sampled_from(["a", "b-c", "d_1", "0"]), st.text(min_size=0, max_size=4, alphabet=st.characters(codec="utf-8"))
)
_strings = st.text(max_size=8, alphabet="ab'\"\\#[]{}=,.\né ")
_scalars = st.one_of(st.integers(), st.booleans(), st.floats(), _strings, st.just("1979-05-27 07:32:00"))
_values = st.recursive(
    _scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_keys, inner, max_size=3)),
    max_leaves=8,
)
_gaps = st.sampled_from(["", " ", "\n", " # ] } \" '\n", "\n\n  "])


class Writer:
    def __init__(self, draw: Any):
        self.draw = draw
        self.text = ""
        self.lines: dict[KeyPath, int] = {}

    def line(self) -> int:
        return self.text.count("\n") + 1

    def key(self, key: str) -> None:
        bare = key != "" and all(c.isascii() and (c.isalnum() or c in "_-") for c in key)
        self.text += key if bare and self.draw(st.booleans()) else quoted(key)

    def pair(self, key: str, value: Any, path: KeyPath) -> None:
        self.lines[path] = self.line()
        self.key(key)
        self.text += self.draw(st.sampled_from(["=", " = ", "\t= "]))
        self.value(value, path)

    def value(self, value: Any, path: KeyPath) -> None:
        if isinstance(value, list):
            self.text += "[" + self.draw(_gaps)
            for i, item in enumerate(value):
                self.lines[(*path, i)] = self.line()
                self.value(item, (*path, i))
                self.text += self.draw(_gaps) + ("," if i + 1 < len(value) or self.draw(st.booleans()) else "")
                self.text += self.draw(_gaps)
            self.text += "]"
        elif isinstance(value, dict):
            self.text += "{"
            for i, (key, item) in enumerate(value.items()):
                self.text += ", " if i else " "
                self.pair(key, item, (*path, key))
            self.text += "}"
        elif isinstance(value, str):
            self.text += self.string(value)
        else:
            self.text += str(value).lower()

    def string(self, value: str) -> str:
        style = self.draw(st.integers(0, 3))
        if style == 1 and "'" not in value and "\n" not in value:
            return f"'{value}'"
        if style == 2 and "'''" not in value and not value.endswith("'''"):
            return f"'''\n{value}'''" if not value.endswith("'") or not value.endswith("'''") else quoted(value)
        if style == 3:
            return '"""' + value.replace("\\", "\\\\").replace('"', '\\"') + '"""'
        return quoted(value)


def quoted(text: str) -> str:
    escaped = "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text)
    return f'"{escaped}"'


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_random_documents(data: st.DataObject) -> None:
    writer = Writer(data.draw)
    tables = data.draw(st.lists(st.dictionaries(_keys, _values, max_size=4), max_size=4))
    for i, table in enumerate(tables):
        writer.text += data.draw(_gaps) + "\n"
        path: KeyPath = ("stream", i)
        writer.lines.setdefault(("stream",), writer.line())
        writer.lines[path] = writer.line()
        writer.text += data.draw(st.sampled_from(["[[stream]]", "[[ 'stream' ]] # c", ' [["stream"]]'])) + "\n"
        for key, value in table.items():
            writer.pair(key, value, (*path, key))
            writer.text += data.draw(st.sampled_from(["\n", " # comment\n", "\n\n"]))
    parsed = tomllib.loads(writer.text)
    assert set(writer.lines) == paths_of(parsed)
    assert locate(writer.text) == writer.lines


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="a.='\"[]{},#\\ \n", max_size=40))
def test_any_text_ends_without_an_error(text: str) -> None:
    assert all(1 <= line <= text.count("\n") + 1 for line in locate(text).values())
