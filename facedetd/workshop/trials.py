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
FAINT = 0.1
"""How far scores move is measured on boxes of the float model from this score on."""
DENSITY = 0.5
"""In hard scenes so many boxes have scores within one unit of logit around SURE, for each box from SURE on. On 120
pictures of WIDER FACE it is 0.49 for YuNet and 0.52 for YOLOv5n-0.5-face (docs/models.md says how that is counted)."""
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
    labels, else from FAINT), and the labels of the same pictures."""

    frames: Iterable[BatchFrame]
    reference: Faces
    labels: Sequence[LabelledPicture] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """What an INT8 model must hold: ``max_drop`` of AP at each level (needs labels), ``min_match`` as a share of the
    float model's boxes: counted, and without labels also as Moves foretells it. None: not asked."""

    max_drop: tuple[float, ...] | None
    min_match: float | None


@dataclass(frozen=True, slots=True)
class Moves:
    """How far INT8 moves the boxes that the float model finds, whatever scores they have: what a hard scene would lose
    can be told from an easy one.

    ``boxes`` are those from SURE on, ``displaced`` those of them without a partner at MATCH_IOU at any score. Over all
    from FAINT on: ``scores``, the sum of what scores changed by; ``slopes``, the sum of s (1 - s), which is the slope
    of the sigmoid where it gives s."""

    boxes: int
    displaced: int
    scores: float
    slopes: float

    @property
    def logit(self) -> float | None:
        """How far scores move, as a mean, in units of logit: near the threshold they move so, be they now far from it,
        where a sigmoid hides it. Boxes near the threshold weigh the most."""
        return self.scores / self.slopes if self.slopes else None

    @property
    def expected(self) -> float | None:
        """The share of boxes that a hard scene would keep. A box is lost where its score falls below SURE: of scores
        that lie DENSITY to a unit of logit and move by d, half of them down, DENSITY d / 2. Boxes that are displaced
        are lost at any threshold. None without boxes."""
        if not self.boxes or self.logit is None:
            return None
        return max(0.0, 1 - self.displaced / self.boxes - DENSITY * self.logit / 2)

    @property
    def telling(self) -> float:
        """How many boxes at a score of 0.5 would tell as much: four times the slopes."""
        return 4 * self.slopes


@dataclass(frozen=True, slots=True)
class Verdict:
    """``drop`` of AP by level, None without labels. ``wrong`` has a phrase for each thing asked that doesn't hold."""

    drop: Mapping[str, float | None] | None
    matched: Agreement
    moves: Moves
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
    """Pure. ``found`` of an INT8 model beside those of the float model, both from MIN_SCORE where there are labels,
    else from FAINT or below."""
    matched, moved = agreement(sure(reference), sure(found), MATCH_IOU), moves(reference, found)
    drop, wrong = None, []
    if labels:
        drop = drops(evaluate(labels, found, SURE), evaluate(labels, reference, SURE))
        if asked.max_drop is not None:
            wrong += [f"AP {phrase}" for phrase in too_much(drop, asked.max_drop)]
    if asked.min_match is not None and matched.share is None:
        wrong.append("the float model finds no face in the pictures: no share of its boxes can be asked for")
    elif asked.min_match is not None and matched.share is not None and matched.share < asked.min_match:
        wrong.append(f"{matched.share * 100:.2f} % of boxes matched (asked {asked.min_match * 100:g} %)")
    if asked.min_match is not None and not labels and moved.expected is not None and moved.expected < asked.min_match:
        wrong.append(
            f"{moved.expected * 100:.2f} % of boxes to be expected in hard scenes (asked {asked.min_match * 100:g} %)"
        )
    return Verdict(drop, matched, moved, tuple(wrong))


def _partners(reference: Faces, found: Faces, lowest: float) -> Iterator[tuple[Face, float, float]]:
    """Each face of the reference from ``lowest`` on, its partner's score and their IoU; 0 and 0.3 where it has none."""
    for all_mine, theirs in zip(reference, found, strict=True):
        mine = [face for face in all_mine if face.score >= lowest]
        partners = {i: (theirs[j].score, iou) for i, j, iou in pairs(mine, theirs, _NEAR_IOU)}
        for i, face in enumerate(mine):
            yield face, *partners.get(i, (0.0, _NEAR_IOU))


def moves(reference: Faces, found: Faces) -> Moves:
    """Pure. ``found`` of an INT8 model beside those of the float model, both from FAINT or below."""
    boxes, displaced, scores, slopes = 0, 0, 0.0, 0.0
    for face, score, iou in _partners(reference, found, FAINT):
        scores += abs(face.score - score)
        slopes += face.score * (1 - face.score)
        if face.score >= SURE:
            boxes += 1
            displaced += iou < MATCH_IOU
    return Moves(boxes, displaced, scores, slopes)


def distance(reference: Faces, found: Faces) -> float:
    """How far faces moved: the mean square of their scores' change in units of logit (as in Moves), plus that of
    1 - IoU. A face that found no partner counts as if the partner had score 0 and IoU 0.3. Pure."""
    faces, scores, slopes, places = 0, 0.0, 0.0, 0.0
    for face, score, iou in _partners(reference, found, 0.0):
        faces += 1
        scores += (face.score - score) ** 2
        slopes += (face.score * (1 - face.score)) ** 2
        places += (1 - iou) ** 2
    return (scores / slopes if slopes else 0.0) + places / faces if faces else 0.0


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
