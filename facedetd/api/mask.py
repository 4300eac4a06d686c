"""From UpdateStream's request to the changes the control plane takes. Pure."""

from __future__ import annotations

from collections.abc import Callable

from facedetd.api.convert import decode_from_proto, labels_from_proto, rois_from_proto, transport_from_proto
from facedetd.control import FieldViolation, InvalidError
from facedetd.types import Secret, StreamSpec
from facedetd.v1 import stream_pb2

_DEFAULT = StreamSpec(id="", url="")

_Reader = Callable[[stream_pb2.StreamSpec], object]

FIELDS: dict[str, tuple[str, _Reader]] = {
    "url": ("url", lambda spec: spec.url),
    "sub_url": ("sub_url", lambda spec: spec.sub_url),
    "priority": ("priority", lambda spec: spec.priority if spec.HasField("priority") else _DEFAULT.priority),
    "target_fps": ("target_fps", lambda spec: spec.target_fps if spec.HasField("target_fps") else _DEFAULT.target_fps),
    "min_fps": ("min_fps", lambda spec: spec.min_fps if spec.HasField("min_fps") else _DEFAULT.min_fps),
    "transport": ("transport", lambda spec: transport_from_proto(spec.transport)),
    "decode": ("decode", lambda spec: decode_from_proto(spec.decode)),
    "regions_of_interest": ("rois", lambda spec: rois_from_proto(spec.regions_of_interest)),
    "labels": ("labels", lambda spec: labels_from_proto(spec.labels)),
    "paused": ("paused", lambda spec: spec.paused),
    "tls_verify": ("tls_verify", lambda spec: spec.tls_verify if spec.HasField("tls_verify") else _DEFAULT.tls_verify),
    "ca_file": ("ca_file", lambda spec: spec.ca_file),
    "username": ("username", lambda spec: spec.username),
}
"""Path in the mask: the field of :class:`StreamSpec` it changes, and how to read it. A field that is named in the
mask but not given goes back to its default."""

CREDENTIALS = ("credentials", "credentials.username", "credentials.password")
ALLOWED = (*FIELDS, *CREDENTIALS)
MAX_PATHS = 100
"""So many are looked at: 4 MB of unknown ones would each be told of, on the loop that all streams depend on."""


def changes_of(request: stream_pb2.UpdateStreamRequest) -> tuple[dict[str, object], Secret | None]:
    """The changed fields of :class:`StreamSpec` and the new password (empty: remove it, None: keep it).

    Raises InvalidError for an empty mask, unknown paths, and credentials that the mask doesn't name.
    """
    paths = list(dict.fromkeys(request.update_mask.paths[:MAX_PATHS]))
    problems = [
        FieldViolation("update_mask", f"unknown path {path[:80]!r}; allowed are {', '.join(ALLOWED)}")
        for path in paths
        if path not in ALLOWED
    ]
    if len(request.update_mask.paths) > MAX_PATHS:
        problems.append(FieldViolation("update_mask", f"more than {MAX_PATHS} paths"))
    if not paths:
        problems.append(FieldViolation("update_mask", f"empty; name what to change: {', '.join(ALLOWED)}"))
    masked = set(paths)
    if request.HasField("credentials") and not masked & set(CREDENTIALS):
        problems.append(FieldViolation("credentials", "given, but not named in update_mask"))
    name_twice = "username" in masked and masked & {"credentials", "credentials.username"}
    if name_twice and request.spec.username != request.credentials.username:
        problems.append(FieldViolation("credentials.username", "differs from spec.username; give it once"))
    if problems:
        raise InvalidError(problems)

    changes = {name: read(request.spec) for path, (name, read) in FIELDS.items() if path in masked}
    if masked & {"credentials", "credentials.username"}:
        changes["username"] = request.credentials.username
    new_password = masked & {"credentials", "credentials.password"}
    return changes, Secret(request.credentials.password) if new_password else None
