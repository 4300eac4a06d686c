"""The example configuration, made from the schema: every key, its default, what it does and what it may hold."""

from __future__ import annotations

import dataclasses
import json
from enum import Enum
from pathlib import Path

from facedetd.config.convert import field_types
from facedetd.config.schema import KEYS, SECTIONS
from facedetd.types import StreamSpec

_HEAD = """\
# The configuration of facedetd. `facedetd --check` checks it.
#
# What stands commented out is the default. Files conf.d/*.toml beside this one are read after it, in order of
# their names: a later file's key takes the place of an earlier one's, streams add up.
"""

_STREAM_HEAD = """\
# Streams that stand here are read-only through the API; `facedetctl add-stream` adds others.
# Only id and url are required.
"""

# A stream's required keys have no default, and some defaults show little.
_STREAM_EXAMPLES = {
    "id": '"door-north"',
    "url": '"rtsp://192.0.2.10/stream1"',
    "rois": "[]  # [[[0.0, 0.5], [1.0, 0.5], [1.0, 1.0], [0.0, 1.0]]] is the lower half",
    "labels": '{}  # { site = "north", floor = "1" }',
}


def render_toml() -> str:
    """A whole ``facedetd.toml`` that changes nothing. ``#key = value`` is a setting, ``# text`` is prose, so taking
    away the ``#`` of every setting gives a file that loads to the defaults and one example stream."""
    blocks = [_HEAD]
    for section, cls in SECTIONS.items():
        types = field_types(cls)
        lines = [f"[{section}]"]
        for field in dataclasses.fields(cls):
            key = KEYS[section][field.name]
            note = "" if key.check else f" Allowed: {key.allowed(types[field.name])}."
            lines += [f"# {key.doc}{note}", f"#{field.name} = {toml_value(field.default)}"]
        blocks.append("\n".join(lines) + "\n")
    lines = [_STREAM_HEAD + "#[[stream]]"]
    for field in dataclasses.fields(StreamSpec):
        value = _STREAM_EXAMPLES.get(field.name) or toml_value(field.default)
        lines += [f"# {KEYS['stream'][field.name].doc}", f"#{field.name} = {value}"]
    blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def toml_value(value: object) -> str:
    """A scalar or an array of them as TOML."""
    if isinstance(value, tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, Enum):
        return toml_value(value.value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, Path)):
        return json.dumps(str(value))
    return repr(value)
