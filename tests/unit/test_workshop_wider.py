"""Labels: what is read, and what is said of bad ones."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facedetd.workshop.wider import LabelError, check_boxes, read_labels

ENTRY = {
    "file": "images/a.jpg",
    "event": "0--Parade",
    "stored_wh": [416, 416],
    "orig_wh": [1024, 684],
    "boxes_xywh_orig": [[730.0, 360.0, 5.0, 12.0], [0, 0, 0, 0], [100, 100, 50, 60]],
    "easy": [],
    "medium": [2],
    "hard": [0, 2],
}
TEXT = """\
0--Parade/one.jpg
2
345 211 4 4 2 0 0 0 2 0
10.5 20 30 40 0 0 0 1 0 0
1--Other/none.jpg
0
0 0 0 0 0 0 0 0 0 0

1--Other/two.jpg
1
1 2 3 4
"""


@pytest.fixture
def write(tmp_path):
    def to(content, *pictures):
        for picture in pictures:
            path = tmp_path / picture
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        file = tmp_path / "labels"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file

    return to


def test_json(write, tmp_path):
    (picture,) = read_labels(write([ENTRY], "images/a.jpg")).pictures
    assert (picture.path, picture.size) == (tmp_path / "images" / "a.jpg", (1024, 684))
    assert picture.boxes.tolist() == [[730, 360, 5, 12], [0, 0, 0, 0], [100, 100, 50, 60]]
    assert picture.counted.tolist() == [[False] * 3, [False, False, True], [True, False, True]]


def test_pictures_may_lie_elsewhere(write, tmp_path):
    file = write([ENTRY], "else/images/a.jpg", "flat/a.jpg")
    for folder, found in (("else", "else/images/a.jpg"), ("flat", "flat/a.jpg")):
        assert read_labels(file, tmp_path / folder).pictures[0].path == tmp_path / found
    with pytest.raises(LabelError, match=r"labels: picture 0 \(images/a.jpg\): no picture .*--pictures"):
        read_labels(file)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"easy": None}, "picture 0 .*: easy is None; wanted is a list of indices"),
        ({"hard": [3]}, "hard holds 3; the picture has 3 boxes, counted from 0"),
        ({"hard": [-1]}, "hard holds -1"),
        ({"hard": [1.0]}, "hard holds 1.0"),
        ({"medium": [True]}, "medium holds True"),
        ({"orig_wh": [0, 5]}, r"orig_wh is \[0, 5\]; wanted are width and height, 1 to 65535"),
        ({"orig_wh": 7}, "orig_wh is 7"),
        ({"file": ""}, "file is ''; wanted is a path"),
        ({"file": "a" * 5000}, "no picture"),
        ({"file": "b.jpg"}, "no picture .*b.jpg"),
        ({"boxes_xywh_orig": {}}, "boxes_xywh_orig is {}; wanted is a list"),
        ({"boxes_xywh_orig": [[1, 2, 3]]}, r"box 0 is \[1, 2, 3\]; wanted is \[x, y, w, h\]"),
        ({"boxes_xywh_orig": [[1, 2, -3, 4]]}, "box 0 is .*w and h from 0"),
        ({"boxes_xywh_orig": [[1, 2, float("nan"), 4]]}, "box 0"),
        ({"boxes_xywh_orig": [[1, 2, 3, 4], [1, 2, 3, 4], [1025, 0, 5, 5]]}, "box 2 is .*outside of its 1024x684"),
        ({"boxes_xywh_orig": [[1, 2, 3, 4], [1, -20, 3, 4], [1, 0, 5, 5]]}, "box 1 is .*outside"),
    ],
)
def test_bad_json_is_told_with_its_place(write, change, says):
    with pytest.raises(LabelError, match=says) as error:
        read_labels(write([{**ENTRY, **change}], "images/a.jpg"))
    assert "labels: picture 0" in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "holds no pictures"),
        ({}, "found an object; wanted is a list"),
        ([1], "picture 0: found 1; wanted is an object with the keys file, orig_wh, boxes_xywh_orig, easy"),
        ([{"file": "a"}], "picture 0: no key orig_wh, boxes_xywh_orig, easy, medium, hard; wanted are"),
        ("[", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("", "holds no pictures"),
        ("name.jpg\n", "labels:2: found ''; wanted is how many boxes name.jpg has"),
        ("name.jpg\nx\n", "labels:2: found 'x'"),
        ("name.jpg\n2\n1 2 3 4\n", "labels:4: found ''; wanted is x y w h"),
        ("name.jpg\n1\n1 2 3\n", "labels:3: found '1 2 3'"),
        ("name.jpg\n1\n1 2 -3 4\n", "labels:3: .*w and h from 0"),
        ("name.jpg\n1\n1 2 3 inf\n", "labels:3"),
        ("1 2 3 4\n1\n", "labels:1: found '1 2 3 4'; wanted is the name of a picture"),
        ("name.jpg\n1\n1 2 3 4\n5 6 7 8\n", "labels:4: found '5 6 7 8'; wanted is the name"),
        ("name.jpg\n0\n0 0 0 0\n", "no picture .*name.jpg"),
    ],
)
def test_bad_files_are_told(write, content, says):
    with pytest.raises(LabelError, match=says):
        read_labels(write(content))


def test_files_that_are_no_text(tmp_path):
    with pytest.raises(LabelError, match="No such file"):
        read_labels(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LabelError, match="is not text"):
        read_labels(tmp_path / "binary")


NAMES = ("0--Parade/one.jpg", "1--Other/none.jpg", "1--Other/two.jpg")


def test_wider_text_without_difficulties(write):
    labels = read_labels(write(TEXT, *NAMES))
    assert not labels.levels and [p.path.name for p in labels.pictures] == ["one.jpg", "none.jpg", "two.jpg"]
    assert [p.boxes.tolist() for p in labels.pictures] == [[[345, 211, 4, 4], [10.5, 20, 30, 40]], [], [[1, 2, 3, 4]]]
    assert [p.counted.tolist() for p in labels.pictures] == [[[True, False]] * 3, [[]] * 3, [[True]] * 3]
    assert labels.pictures[0].size is None and ":9 (1--Other/two.jpg)" in labels.pictures[2].where


def test_wider_pictures_in_their_usual_folders(tmp_path):
    split = tmp_path / "wider_face_split"
    split.mkdir()
    file = split / "wider_face_val_bbx_gt.txt"
    file.write_text(TEXT)
    root = tmp_path / "WIDER_val" / "images"
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for folder in (None, tmp_path, tmp_path / "WIDER_val", root):
        assert read_labels(file, folder).pictures[0].path == root / NAMES[0]


def cells(values):
    """A MATLAB cell array, (n, 1)."""
    array = np.empty((len(values), 1), object)
    array[:, 0] = values
    return array


def save_mats(folder, lists):
    """WIDER FACE's difficulty files; ``lists`` is the 1-based indices of each picture, by level."""
    io = pytest.importorskip("scipy.io")
    for level, (one, none, two) in lists.items():
        column = lambda v: np.array(v, np.uint16).reshape(-1, 1)  # noqa: E731
        gt = cells([cells([column(one)]), cells([column(none), column(two)])])
        files = cells([cells(["one"]), cells(["none", "two"])])
        io.savemat(
            folder / f"wider_{level}_val.mat",
            {"event_list": cells(["0--Parade", "1--Other"]), "file_list": files, "gt_list": gt},
        )


def test_wider_difficulties(write, tmp_path):
    file = write(TEXT, *NAMES)
    save_mats(tmp_path, {"easy": ([], [], []), "medium": ([2], [], []), "hard": ([1, 2], [], [1])})
    labels = read_labels(file)
    assert labels.levels
    assert [p.counted.tolist() for p in labels.pictures] == [
        [[False, False], [False, True], [True, True]], [[]] * 3, [[False], [False], [True]],
    ]  # fmt: skip
    save_mats(tmp_path, {"hard": ([3], [], [])})
    with pytest.raises(LabelError, match=r"labels:1 .*wider_hard_val.mat .* holds 2; the picture has 2 boxes"):
        read_labels(file)
    save_mats(tmp_path, {"hard": ([1], [], [])})
    with pytest.raises(LabelError, match=r"is not in wider_easy_val\.mat"):
        read_labels(write(TEXT.replace("one.jpg", "three.jpg"), "0--Parade/three.jpg"))
    (tmp_path / "wider_hard_val.mat").write_bytes(b"no MATLAB")
    with pytest.raises(LabelError, match=r"wider_hard_val.mat: not as WIDER FACE's eval_tools have it"):
        read_labels(file)
    (tmp_path / "wider_hard_val.mat").unlink()
    with pytest.raises(LabelError, match=r"has wider_easy_val.mat, but not all of"):
        read_labels(file)


def test_difficulties_without_scipy(write, tmp_path, monkeypatch):
    file = write(TEXT, *NAMES)
    for level in ("easy", "medium", "hard"):
        (tmp_path / f"wider_{level}_val.mat").touch()
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    with pytest.raises(LabelError, match="needs scipy, which isn't installed: pip install scipy"):
        read_labels(file)


def test_boxes_are_checked_against_the_picture(write):
    picture = read_labels(write(TEXT, *NAMES)).pictures[0]
    check_boxes(picture, 349, 215)
    with pytest.raises(LabelError, match=r"labels:1 \(0--Parade/one.jpg\): box 0 is .*outside of its 300x300 picture"):
        check_boxes(picture, 300, 300)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(list(ENTRY)), inner, max_size=8),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(list(ENTRY)), json_values, max_size=3))
@settings(max_examples=200, deadline=None)
def test_nothing_in_json_but_a_label_error(tmp_path_factory, change):
    folder = tmp_path_factory.mktemp("labels")
    (folder / "images").mkdir()
    (folder / "images" / "a.jpg").touch()
    (folder / "labels").write_text(json.dumps([{**ENTRY, **change}]))
    try:
        (picture,) = read_labels(folder / "labels").pictures
    except LabelError as error:
        assert "picture 0" in str(error)
    else:
        assert picture.counted.shape == (3, len(picture.boxes))


@given(st.text(alphabet="ab./ 0123-\n", max_size=60))
@settings(max_examples=200, deadline=None)
def test_nothing_in_text_but_a_label_error(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("labels") / "labels"
    file.write_text(text)
    with pytest.raises(LabelError):  # no picture is there
        read_labels(file)
