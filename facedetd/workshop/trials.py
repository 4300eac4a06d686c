"""Which layers INT8 hurts, and the fewest that must stay in float: candidates of one model tried on pictures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from facedetd.inference.engines.onnxruntime import open_session, run
from facedetd.inference.heads.nms import candidates_up_to
from facedetd.inference.types import BatchFrame, Head, faces_in_source
from facedetd.types import Face
from facedetd.workshop.calibrate import Feeder
from facedetd.workshop.evaluate import CANDIDATES, drops, evaluate, too_much
from facedetd.workshop.matching import Agreement, agreement, pairs
from facedetd.workshop.pictures import nv12_frame, read_picture
from facedetd.workshop.wider import LabelledPicture, check_boxes

SURE, MATCH_IOU = 0.5, 0.7
"""Boxes of the float model from this score on must be found by the INT8 model, from this score on, at this IoU."""
_NEAR_IOU = 0.3

Faces = Sequence[tuple[Face, ...]]


class LabelledFrames:
    """Labelled pictures as the model gets them, read anew each time they are gone through: thousands don't fit into
    memory. Going through them raises PictureError, LabelError."""

    def __init__(
        self, pictures: Sequence[LabelledPicture], width: int, height: int, progress: Callable[[int, int], None]
    ) -> None:
        self._pictures, self._size, self._progress = pictures, (width, height), progress

    def __iter__(self) -> Iterator[BatchFrame]:
        for done, picture in enumerate(self._pictures):
            self._progress(done, len(self._pictures))
            bgr = read_picture(picture.path, picture.size)
            check_boxes(picture, bgr.shape[1], bgr.shape[0])
            yield nv12_frame(bgr, *self._size)
        self._progress(len(self._pictures), len(self._pictures))


@dataclass(frozen=True, slots=True)
class Pictures:
    """What candidates are tried on: ``frames``, what the float model finds in them (from MIN_SCORE where there are
    labels, else from SURE), and the labels of the same pictures."""

    frames: Iterable[BatchFrame]
    reference: Faces
    labels: Sequence[LabelledPicture] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """What an INT8 model must hold: ``max_drop`` of AP at each level (needs labels), ``min_match`` as a share of the
    float model's boxes. None: not asked."""

    max_drop: tuple[float, ...] | None
    min_match: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """``drop`` of AP by level, None without labels. ``wrong`` has a phrase for each thing asked that doesn't hold."""

    drop: Mapping[str, float | None] | None
    matched: Agreement
    wrong: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.wrong


class Runner:
    """Runs models of one head at one size, from their bytes."""

    def __init__(self, head: Head, feeder: Feeder, width: int, height: int, threads: int) -> None:
        self._head, self._feeder, self._size, self._threads = head, feeder, (width, height), threads

    def faces(self, model: bytes, frames: Iterable[BatchFrame], min_score: float) -> list[tuple[Face, ...]]:
        """The faces of each frame, in its source's px. Raises ModelError."""
        session = open_session(model, self._threads)
        name = session.get_inputs()[0].name
        names = [output.name for output in session.get_outputs()]
        found = []
        for frame in frames:
            raw = dict(zip(names, run(session, name, self._feeder.planes(frame)), strict=True))
            with candidates_up_to(CANDIDATES):
                decoded = self._head.decode(raw, *self._size, min_score)
            found.append(faces_in_source(decoded[0], frame.header.geometry))
        return found


def sure(found: Faces) -> list[tuple[Face, ...]]:
    return [tuple(face for face in faces if face.score >= SURE) for faces in found]


def verdict(reference: Faces, found: Faces, labels: Sequence[LabelledPicture], asked: Asked) -> Verdict:
    """Pure. ``found`` of an INT8 model beside those of the float model, both from MIN_SCORE where there are labels."""
    matched = agreement(sure(reference), sure(found), MATCH_IOU)
    drop, wrong = None, []
    if labels:
        drop = drops(evaluate(labels, found, SURE), evaluate(labels, reference, SURE))
        if asked.max_drop is not None:
            wrong += [f"AP {phrase}" for phrase in too_much(drop, asked.max_drop)]
    if asked.min_match is not None and matched.share is None:
        wrong.append("the float model finds no face in the pictures: no share of its boxes can be asked for")
    elif asked.min_match is not None and matched.share is not None and matched.share < asked.min_match:
        wrong.append(f"{matched.share * 100:.2f} % of boxes matched (asked {asked.min_match * 100:g} %)")
    return Verdict(drop, matched, tuple(wrong))


def distance(reference: Faces, found: Faces) -> float:
    """How far faces moved: of each face of the reference, its score's change squared plus (1 - IoU) squared, as a mean.
    A face that found no partner counts as if the partner had score 0 and IoU 0.3. Pure."""
    total, faces = 0.0, 0
    for mine, theirs in zip(reference, found, strict=True):
        faces += len(mine)
        partners = {i: (j, iou) for i, j, iou in pairs(mine, theirs, _NEAR_IOU)}
        for i, face in enumerate(mine):
            j, iou = partners.get(i, (None, _NEAR_IOU))
            total += (face.score - (theirs[j].score if j is not None else 0.0)) ** 2 + (1 - iou) ** 2
    return total / faces if faces else 0.0


def fewest(
    order: Sequence[str], holds: Callable[[frozenset[str]], bool], progress: Callable[[int], None], most_tries: int
) -> frozenset[str] | None:
    """The least set of layers found that ``holds`` when kept in float; None where not even all of ``order`` do.

    ``order``: the most sensitive first. First the shortest head of that list is looked for by halving, as if more
    float never hurt; then each layer of it is left out if it holds without, the least sensitive first. ``progress`` is
    told the number of tries, of which the second step makes up to ``most_tries``. Pure but for what it is given.
    """
    tries = 0

    def tried(keep: Collection[str]) -> bool:
        nonlocal tries
        tries += 1
        progress(tries)
        return holds(frozenset(keep))

    if tried(()):
        return frozenset()
    low, high = 0, len(order)  # low doesn't hold; high does, once tried
    if not tried(order):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if tried(order[:middle]) else (middle, high)
    keep = list(order[:high])
    for name in list(reversed(keep))[:most_tries]:
        without = [other for other in keep if other != name]
        if tried(without):
            keep = without
    return frozenset(keep)
