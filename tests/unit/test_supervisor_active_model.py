"""Which model is to run: the choice on disk, what a name stands for, and the change itself."""

import asyncio
import json
import os

import pytest

from facedetd.config.model import Config
from facedetd.control import InvalidError, ModelView, NotFoundError, StorageError, UnavailableError
from facedetd.models import ModelStore
from facedetd.supervisor.activation import Activation
from facedetd.supervisor.active_model import FILE, ChoiceFile, ModelChoice, resolve

CHOICE = ModelChoice("yunet", "0123456789ab")


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "models")


def put(store, name="centerface", data=b"weights"):
    return store.put(name, data, head="yunet", licence="MIT", source="s", source_sha256="0")


# --- the file ---


def test_a_choice_is_kept_and_taken_back(tmp_path):
    assert ChoiceFile(tmp_path).load() == (None, "")
    ChoiceFile(tmp_path).save(CHOICE)
    assert ChoiceFile(tmp_path).load() == (CHOICE, "")
    ChoiceFile(tmp_path).save(None)
    ChoiceFile(tmp_path).save(None)
    assert ChoiceFile(tmp_path).load() == (None, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": 2, "name": "a", "version": "0123456789ab"}', '{"format": 1, "name": "a"}',
     '{"format": 1, "name": "../a", "version": "0123456789ab"}', '{"format": 1, "name": "a", "version": "../../etc"}',
     "[" * 4000],
)  # fmt: skip
def test_a_file_that_says_nothing_of_use_is_said_and_overwritten(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    choice, problem = ChoiceFile(tmp_path).load()
    assert choice is None and FILE in problem and "the configuration's model runs" in problem
    ChoiceFile(tmp_path).save(CHOICE)
    assert ChoiceFile(tmp_path).load() == (CHOICE, "")


def test_a_full_disk_changes_nothing(tmp_path, monkeypatch):
    ChoiceFile(tmp_path).save(CHOICE)

    def fsync(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match="No space left"):
        ChoiceFile(tmp_path).save(ModelChoice("other", "ba9876543210"))
    monkeypatch.undo()
    assert ChoiceFile(tmp_path).load() == (CHOICE, "")
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


# --- names ---


def test_a_name_stands_for_one_version(store):
    first, second = put(store, data=b"1"), put(store, data=b"2")
    assert resolve(store, "centerface", "") == ModelChoice("centerface", second.version)
    assert resolve(store, "centerface", first.version) == ModelChoice("centerface", first.version)


def test_what_is_no_model_is_refused_by_its_kind(store):
    entry = put(store)
    for name, version in (("nosuch", ""), ("centerface", "000000000000")):
        with pytest.raises(NotFoundError):
            resolve(store, name, version)
    for name, version in (("../x", ""), ("centerface", "latest"), ("a" * 64, "")):
        with pytest.raises(InvalidError, match="allowed: what `facedetctl model list` shows"):
            resolve(store, name, version)
    entry.path.write_bytes(b"torn")
    with pytest.raises(UnavailableError, match="damaged"):
        resolve(store, "centerface", "")


# --- the change ---


class Unit:
    def __init__(self, view):
        self.view = self.running = view
        self.chosen, self.stopped = None, False
        self.wanted = "a model"

    def keep_to(self, chosen):
        self.chosen = chosen

    def stop(self):
        self.stopped = True


class Units:
    """Loads what it is told to, or fails."""

    def __init__(self, entry, problem=""):
        self.current = Unit(view_of(entry))
        self.problem, self.loaded = problem, []

    async def load(self, config, chosen, *, must_run):
        assert must_run
        if self.problem:
            raise UnavailableError(self.problem)
        self.loaded.append(Unit(ModelView(chosen.name if chosen else "centerface", chosen.version if chosen else "v",
                                          "h", "e", 1, 1, "0")))  # fmt: skip
        return self.loaded[-1]


def view_of(entry):
    return ModelView(entry.name, entry.version, "h", "e", 1, 1, entry.sha256)


def activate(activation, units, name, version="", refuse=False):
    def take(unit):
        if refuse:
            raise UnavailableError("the daemon is stopping")
        if unit:
            units.current = unit

    async def run():
        return await activation.activate(name, version, Config(), units, asyncio.Lock(), take)

    return asyncio.run(run())


def test_a_model_is_taken_and_kept_over_a_restart(tmp_path, store):
    old, new = put(store), put(store, "other", b"other")
    activation, units = Activation(tmp_path, store), Units(old)
    now, before = activate(activation, units, "other")
    assert (now.name, before) == ("other", view_of(old))
    wanted = ModelChoice("other", new.version)
    assert activation.chosen == units.current.chosen == Activation(tmp_path, store).chosen == wanted
    assert "other@" in activation.stays_in_spite_of(["model.name: a -> b"])[0]
    assert activation.stays_in_spite_of(["model.width: 1 -> 2"]) == ()
    now, before = activate(activation, units, "")
    assert (now.name, before.name) == ("centerface", "other")
    assert activation.chosen is units.current.chosen is Activation(tmp_path, store).chosen is None
    assert activation.stays_in_spite_of(["model.name: a -> b"]) == ()


def test_the_model_that_runs_already_is_not_loaded_again_but_kept(tmp_path, store):
    entry = put(store)
    activation, units = Activation(tmp_path, store), Units(entry)
    activate(activation, units, "centerface", entry.version)
    assert units.loaded == []
    assert Activation(tmp_path, store).chosen == units.current.chosen == ModelChoice("centerface", entry.version)


def test_one_that_fails_leaves_all_as_it_was(tmp_path, store):
    entry = put(store)
    put(store, "other", b"other")
    activation, units = Activation(tmp_path, store), Units(entry, "it is torn")
    with pytest.raises(UnavailableError, match="it is torn"):
        activate(activation, units, "other")
    assert (
        activation.chosen is None
        and Activation(tmp_path, store).chosen is None
        and units.current.view.name == "centerface"
    )
    with pytest.raises(InvalidError, match="a name alone"):
        activate(activation, units, "", "0123456789ab")


def test_a_full_disk_stops_the_new_unit(tmp_path, store, monkeypatch):
    old = put(store)
    put(store, "other", b"other")
    activation, units = Activation(tmp_path, store), Units(old)

    def fsync(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError):
        activate(activation, units, "other")
    monkeypatch.undo()
    assert units.loaded[0].stopped and units.current.view.name == "centerface"
    assert activation.chosen is None and Activation(tmp_path, store).chosen is None


def test_when_the_daemon_stops_meanwhile_nothing_is_kept(tmp_path, store):
    old = put(store)
    put(store, "other", b"other")
    activation, units = Activation(tmp_path, store), Units(old)
    with pytest.raises(UnavailableError, match="stopping"):
        activate(activation, units, "other", refuse=True)
    assert units.loaded[0].stopped and Activation(tmp_path, store).chosen is None


def test_a_bad_file_is_a_problem_until_the_next_choice(tmp_path, store):
    entry = put(store)
    (tmp_path / FILE).write_text("torn")
    activation, units = Activation(tmp_path, store), Units(entry)
    assert [(s, subject) for s, subject, _ in activation.problems()] == [("error", "active model")]
    activate(activation, units, "centerface")
    assert activation.problems() == []
    assert json.loads((tmp_path / FILE).read_text())["name"] == "centerface"
