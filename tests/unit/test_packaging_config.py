"""/etc/facedetd/facedetd.toml of the package, which ``packaging/deb/stage.py`` writes, against what the daemon reads:
key by key, both ways."""

import dataclasses
import re
import sys

import pytest

from facedetd.config.load import load
from facedetd.config.model import Config
from facedetd.config.reference import render_toml
from facedetd.config.schema import SECTIONS
from facedetd.types import StreamSpec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TEXT = render_toml()
SETTING = re.compile(r"#(\[|[a-z_0-9]+ = )")
OPENED = "\n".join(line[1:] if SETTING.match(line) else line for line in TEXT.splitlines())
"""As an operator has it who took away the # of every setting."""


def fields(cls: type) -> dict[str, dataclasses.Field]:
    return {field.name: field for field in dataclasses.fields(cls)}


def test_sections_are_those_the_daemon_knows():
    assert tomllib.loads(OPENED).keys() == {*SECTIONS, "stream"}
    assert SECTIONS.keys() == fields(Config).keys() - {"streams"}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_of_a_section_is_there_and_no_other(section):
    assert list(tomllib.loads(OPENED)[section]) == list(fields(SECTIONS[section])), "in the order of the code"


def test_a_stream_has_every_key_and_no_other():
    [stream] = tomllib.loads(OPENED)["stream"]
    assert stream.keys() == fields(StreamSpec).keys()


def test_what_is_commented_out_is_the_default(tmp_path):
    for name, text in (("as-installed.toml", TEXT), ("opened.toml", OPENED)):
        (tmp_path / name).write_text(text)
    assert load(tmp_path / "as-installed.toml") == Config()
    opened = load(tmp_path / "opened.toml")
    assert dataclasses.replace(opened, streams=()) == Config()
    [stream] = opened.streams
    required = {"id": stream.id, "url": stream.url}
    assert stream == StreamSpec(**required) and all(required.values())


def test_each_key_has_a_line_that_says_what_it_does():
    lines = TEXT.splitlines()
    keys = [i for i, line in enumerate(lines) if re.match(r"#[a-z_0-9]+ = ", line)]
    assert len(keys) == sum(len(fields(cls)) for cls in (*SECTIONS.values(), StreamSpec))
    for i in keys:
        name = lines[i][1:].partition(" =")[0]
        assert re.fullmatch(r"# \S.{9,}", lines[i - 1]), f"{name} has no line of its own: {lines[i - 1]!r}"


def test_nothing_is_set_as_it_is_installed():
    assert not [line for line in TEXT.splitlines() if line and not line.startswith(("#", "["))]


def test_a_key_that_was_renamed_or_removed_would_be_noticed(tmp_path):
    # This test's own: the file as an old version may have left it
    (tmp_path / "old.toml").write_text(OPENED.replace("state_dir =", "state_folder ="))
    with pytest.raises(Exception, match="state_folder"):
        load(tmp_path / "old.toml")
