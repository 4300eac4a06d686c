"""What the documentation says of the code is what the code says."""

import re
import sys
from pathlib import Path

import pytest

from docs.tools import reference_pages
from docs.tools.terminal_picture import BACKGROUND, COLOURS, DIM, TEXT, Style, draw, screen, typed
from facedetd import __version__
from facedetd.control import DaemonState
from facedetd.ring.counts import DROP_REASONS
from facedetd.types import StreamState

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("name", reference_pages.PAGES)
def test_made_pages_are_as_new_as_the_code(name):
    assert (ROOT / "docs" / name).read_text() == reference_pages.PAGES[name](), "run make docs"


def test_every_word_that_a_label_may_hold_is_explained():
    assert reference_pages.REASONS.keys() == DROP_REASONS.keys()
    assert reference_pages.STREAM_STATES.keys() == set(StreamState)
    assert reference_pages.DAEMON_STATES.keys() == set(DaemonState)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", page.read_text()):
        path, _, anchor = (target[0] or target[1]).partition("#")
        if path.startswith(("http:", "https:")):
            continue
        found = page if not path else page.parent / path
        assert found.exists(), f"{page.name} links to {path}"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_dependency_has_its_reason():
    page = (ROOT / "docs" / "dependencies.md").read_text()
    wanted = [*PROJECT["dependencies"], *(d for extra in PROJECT["optional-dependencies"].values() for d in extra)]
    names = {re.match(r"[A-Za-z0-9-]+", dependency)[0] for dependency in wanted}
    scripts = "".join((ROOT / "packaging" / f"setup_{name}.sh").read_text() for name in ("system", "packaging"))
    debian = " ".join(re.findall(r"^(?:PACKAGES|DEB|SYSTEM|VM)=\(([^)]+)\)", scripts, re.MULTILINE)).split()
    locks = "".join((ROOT / "packaging/gpu" / f"{name}.lock").read_text() for name in ("facedetd", "build"))
    gpu = {name for name in re.findall(r"^([a-z0-9-]+)==", locks, re.MULTILINE) if not name.startswith("tensorrt-")}
    listed = set(re.findall(r"^\| `([^`]+)`", page, re.MULTILINE))
    assert listed == {*names, *debian, *gpu, "prometheus"}


def test_the_generated_code_gets_the_libraries_it_demands():
    least = {m[1]: m[2] for d in PROJECT["dependencies"] if (m := re.fullmatch(r"([a-z-]+)>=([0-9.]+)", d))}
    for path in (ROOT / "facedetd" / "v1").glob("*_pb2_grpc.py"):
        demanded = re.search(r"GRPC_GENERATED_VERSION = '([^']+)'", path.read_text())[1]
        assert {least[name] for name in least if name.startswith("grpcio")} == {demanded}
    for path in (ROOT / "facedetd" / "v1").glob("*_pb2.py"):
        assert re.search(r"# Protobuf Python Version: (\S+)", path.read_text())[1] == least["protobuf"]


def test_the_changelog_knows_the_version():
    assert PROJECT["version"] == __version__
    assert f"[Unreleased] {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_a_picture_shows_what_a_terminal_shows():
    lines = screen("ab\x1b[32mcd\x1b[0m\r\n\x1b[1mwide line\x1b[0m\n", columns=5)
    assert ["".join(char for char, _ in line) for line in lines] == ["abcd", "wide ", "line"]
    assert lines[0][1:3] == [("b", Style()), ("c", Style(COLOURS[32]))] and lines[2][0] == ("l", Style(TEXT, True))
    assert screen("\x1b[2mx", columns=5) == [[("x", Style(DIM))]]
    with pytest.raises(ValueError, match=r"a control that is not drawn: '\\x1b\[2J'"):
        screen("\x1b[2J", columns=5)
    if (Path("/usr/share/fonts/truetype/dejavu/DejaVuSansMono-Bold.ttf")).exists():
        picture = draw([typed(["x"]), []], 5).convert("RGB")
        colours = {colour for _, colour in picture.getcolors(100_000)}
        assert tuple(bytes.fromhex(BACKGROUND[1:])) in colours and len(colours) > 3
