"""What a stream's definition may hold. One set of rules for the TOML, the API and import files."""

from __future__ import annotations

import ipaddress
import math
import re
import unicodedata
from dataclasses import replace
from pathlib import PurePosixPath

from facedetd.config.convert import show
from facedetd.config.urls import login_problem, may_hold_password, split_authority, split_host_port, split_userinfo
from facedetd.control import FieldViolation
from facedetd.types import STREAM_ID_PATTERN, Polygon, Secret, StreamSpec

MAX_URL = 2048
MAX_FPS = 120.0
MAX_POLYGONS = 16
MAX_POINTS = 64
MAX_LABELS = 16
MAX_LABEL_NAME = 64
MAX_LABEL_VALUE = 128
MAX_USERNAME = 256
MAX_PATH = 4096  # PATH_MAX of Linux

_SCHEMES = {"rtsp": "rtsp", "rtsps": "rtsp", "file": "file"}  # scheme: family
_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_-]{1,63})*\.?")
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_CREDENTIAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")
# Areas of real regions are far above this; only rounding is below.
_LEAST_AREA = 1e-9


def check_spec(spec: StreamSpec, *, allow_file_sources: bool) -> list[FieldViolation]:
    """Every rule that ``spec`` breaks; empty where it is good.

    ``field`` is the name in :class:`StreamSpec` with what is below it: ``url``, ``rois[0][2]``, ``labels.site``.
    No message holds a password, nor a URL that might hold one."""
    found: list[FieldViolation] = []

    def violate(field: str, message: str) -> None:
        found.append(FieldViolation(field, message))

    if not re.fullmatch(STREAM_ID_PATTERN, spec.id):
        violate(
            "id", f"found {show(spec.id)}; allowed: a letter or digit, then up to 62 letters, digits, '.', '_' or '-'"
        )
    if problem := _url_problem(spec.url, allow_file_sources):
        violate("url", problem)
    if spec.sub_url:
        problem = _url_problem(spec.sub_url, allow_file_sources) or _family_problem(spec)
        if problem:
            violate("sub_url", problem)
    if not _text_is_plain(spec.username) or ":" in spec.username or len(spec.username) > MAX_USERNAME:
        violate(
            "username",
            f"found a name that is not shown; allowed: at most {MAX_USERNAME} characters, no ':' (it ends the name "
            "in basic authentication), no control characters",
        )
    if spec.credential and not _CREDENTIAL.fullmatch(spec.credential):
        violate(
            "credential",
            "found a value that is not shown; allowed: the name of a systemd credential (letters, digits, '_', '.' "
            "and '-'), not the password itself",
        )
    if not 0 <= spec.priority <= 100:
        violate("priority", f"found {show(spec.priority)}; allowed: an integer from 0 to 100")
    if not 0 < spec.target_fps <= MAX_FPS:
        violate("target_fps", f"found {show(spec.target_fps)}; allowed: a number above 0, up to {MAX_FPS:g}")
    if not 0 < spec.min_fps <= MAX_FPS:
        violate("min_fps", f"found {show(spec.min_fps)}; allowed: a number above 0, up to target_fps")
    elif 0 < spec.target_fps < spec.min_fps:
        violate("min_fps", f"found {show(spec.min_fps)}; allowed: at most target_fps, which is {show(spec.target_fps)}")
    if spec.ca_file and not _path_is_absolute(spec.ca_file):
        violate("ca_file", f"found {show(spec.ca_file)}; allowed: an absolute path of at most {MAX_PATH} characters")
    found += _check_rois(spec.rois)
    found += _check_labels(spec.labels)
    return found


def check_login(username: str, secret: Secret | None) -> list[FieldViolation]:
    """Whether a camera can be logged in to with these; the violation shows neither."""
    problem = login_problem(username, secret.value if secret else None)
    return [FieldViolation("password", problem)] if problem else []


def lift_userinfo(spec: StreamSpec) -> tuple[StreamSpec, Secret | None, list[FieldViolation]]:
    """Move ``user:password@`` of the URLs into ``username`` and a secret; returns (spec, secret or None, violations).

    Both URLs of a stream are one camera's, so different names or passwords in them are violations."""
    found: list[FieldViolation] = []
    username, password = spec.username, None
    bare = {}
    for field in ("url", "sub_url"):
        url: str = getattr(spec, field)
        bare[field], name, word = split_userinfo(url)
        if name and username and name != username:
            found.append(FieldViolation(field, "found a user name other than the stream's; allowed: one for a stream"))
        if word is not None and password is not None and word != password:
            found.append(FieldViolation(field, "found a password other than in url; allowed: one for a stream"))
        username = username or name
        password = word if password is None else password
    spec = replace(spec, url=bare["url"], sub_url=bare["sub_url"], username=username)
    return spec, None if password is None else Secret(password), found


def _url_problem(url: str, allow_file_sources: bool) -> str | None:
    schemes = "rtsp://, rtsps://" + (" or file://" if allow_file_sources else "")
    if not url:
        return f"found nothing; allowed: a URL that begins with {schemes}"
    if len(url) > MAX_URL:
        return f"found {len(url)} characters; allowed: at most {MAX_URL}"
    if not _text_is_plain(url) or any(c.isspace() for c in url):
        return "found a space or control character; allowed: none (write %20 for a space)"
    scheme, authority, rest = split_authority(url)
    if scheme not in _SCHEMES:
        return f"found {show(scheme + '://') if scheme.isalnum() else 'no scheme'}; allowed: {schemes}"
    if may_hold_password(url):
        return (
            "found an '@' after a ':', so a password may stand in the URL (not shown here); allowed: none: give it "
            "with credential = \"NAME\" in the TOML or `facedetctl --password-stdin`; an '@' in the path is %40"
        )
    if scheme == "file":
        return _file_problem(authority, rest, allow_file_sources)
    if "@" in authority:
        return "found a user name in the URL; allowed: none: it goes into username"
    return _host_problem(authority)


def _file_problem(authority: str, rest: str, allow_file_sources: bool) -> str | None:
    if not allow_file_sources:
        return "found file://; allowed: rtsp:// or rtsps:// (file:// only with daemon.allow_file_sources = true)"
    if authority:
        return "found a host in a file:// URL; allowed: file:///absolute/path"
    if "?" in rest or "#" in rest:
        return "found '?' or '#' in a file:// URL; allowed: only a path (write %3F or %23)"
    if not rest.startswith("/") or rest.endswith("/"):
        return "found no path of a file; allowed: file:///absolute/path"
    if re.search(r"%00", rest):
        return "found %00; allowed: a path without it"
    return None


def _host_problem(authority: str) -> str | None:
    try:
        host, _ = split_host_port(authority)
    except ValueError as error:
        return f"found {show(authority)} as host and port; {error}"
    if not host:
        return "found no host; allowed: scheme://HOST[:PORT]/path"
    if authority.startswith("["):
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            return f"found {show(host)} in brackets; allowed: an IPv6 address"
        return None
    if not _HOST_NAME.fullmatch(host):
        return f"found host {show(host)}; allowed: a name of letters, digits, '-', '_' and '.', or an IP address"
    return None


def _family_problem(spec: StreamSpec) -> str | None:
    main, sub = split_authority(spec.url)[0], split_authority(spec.sub_url)[0]
    if main in _SCHEMES and _SCHEMES[main] != _SCHEMES[sub]:
        return f"found {sub}:// beside a url with {main}://; allowed: the same kind for both"
    return None


def _check_rois(rois: tuple[Polygon, ...]) -> list[FieldViolation]:
    found = []
    if len(rois) > MAX_POLYGONS:
        found.append(FieldViolation("rois", f"found {len(rois)} polygons; allowed: at most {MAX_POLYGONS}"))
    for i, polygon in enumerate(rois):
        outside = [j for j, point in enumerate(polygon) if not all(0 <= v <= 1 for v in point)]
        found += [
            FieldViolation(f"rois[{i}][{j}]", f"found {_point(polygon[j])}; allowed: fractions from 0 to 1")
            for j in outside
        ]
        if not 3 <= len(polygon) <= MAX_POINTS:
            found.append(
                FieldViolation(f"rois[{i}]", f"found {len(polygon)} points; allowed: from 3 to {MAX_POINTS} points")
            )
        elif not outside and polygon_area(polygon) < _LEAST_AREA:
            found.append(FieldViolation(f"rois[{i}]", "found a polygon with no area; allowed: an area above 0"))
    return found


def _point(point: tuple[float, float]) -> str:
    return "[" + ", ".join(f"{v:g}" for v in point) + "]"


def polygon_area(polygon: Polygon) -> float:
    """The area inside a polygon that doesn't cross itself (the shoelace formula), in the square of its unit."""
    following = (*polygon[1:], polygon[0])
    return abs(math.fsum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(polygon, following, strict=True))) / 2


def _check_labels(labels: tuple[tuple[str, str], ...]) -> list[FieldViolation]:
    found = []
    if len(labels) > MAX_LABELS:
        found.append(FieldViolation("labels", f"found {len(labels)} labels; allowed: at most {MAX_LABELS}"))
    names = [name for name, _ in labels]
    for name in sorted({name for name in names if names.count(name) > 1}):
        found.append(FieldViolation("labels", f"found {show(name)} twice; allowed: each name once"))
    for name, value in labels:
        if not _LABEL_NAME.fullmatch(name) or name.startswith("__") or len(name) > MAX_LABEL_NAME:
            found.append(
                FieldViolation(
                    "labels",
                    f"found the name {show(name)}; allowed: letters, digits and '_', not beginning with a digit or "
                    f"'__', at most {MAX_LABEL_NAME} characters",
                )
            )
        elif len(value) > MAX_LABEL_VALUE or not _text_is_plain(value):
            found.append(
                FieldViolation(
                    f"labels.{name}",
                    f"found {show(value)}; allowed: at most {MAX_LABEL_VALUE} characters, no control characters",
                )
            )
    return found


def _text_is_plain(text: str) -> bool:
    """No control characters (Cc), line separators or lone surrogates."""
    return all(unicodedata.category(c) not in {"Cc", "Cs", "Zl", "Zp"} for c in text)


def _path_is_absolute(text: str) -> bool:
    return len(text) <= MAX_PATH and _text_is_plain(text) and PurePosixPath(text).is_absolute()
