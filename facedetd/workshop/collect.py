"""Pictures from somewhere into a calibration set: look at each, and keep the best choice of all seen so far."""

from __future__ import annotations

import hashlib
import itertools
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Protocol

import cv2
import numpy as np

import facedetd
from facedetd.inference.types import faces_in_source
from facedetd.models.calibration import LUMA_BINS, luma_counts, luma_shares
from facedetd.models.drift import divergence
from facedetd.types import ByteArray, Face
from facedetd.workshop.calibration_set import CalibrationSet, Frame, picture_name, utc_text
from facedetd.workshop.camera_frames import Shot
from facedetd.workshop.choice import (
    FACES_EDGES,
    HASH_BITS,
    HEIGHT_EDGES,
    HOURS,
    LUMA_EDGES,
    bins_of,
    choose,
    distances,
    hardness,
    hash_array,
)
from facedetd.workshop.detector import Detector
from facedetd.workshop.pictures import contact_sheet

JPEG_QUALITY = 95
_BELOW = 0.3
"""So far below the threshold scores are looked at: what is nearly found is a hard case too."""
_ROUND = 64  # pictures, held in memory
_ROUND_S = 10.0
_TURN_S = 0.2
IDLE_S = 600.0
"""Without a duration it is over when so long nothing new has come: a file that begins anew, a street at night."""
_SHEET = 48
_NOISE = 1.5  # of 255; noise of 8 a pixel is below 0.4 in the mean of the hundreds that become one
_HOURS = [f"{hour:02}-{hour + HOURS:02}" for hour in range(0, 24, HOURS)]
_LUMA = [f"under {LUMA_EDGES[0]}", *(f"{a}-{b}" for a, b in itertools.pairwise(LUMA_EDGES)), f"from {LUMA_EDGES[-1]}"]
_FACES = ["0", *(f"{a}-{b - 1}" if b - a > 1 else f"{a}" for a, b in itertools.pairwise(FACES_EDGES)), "8 and more"]
_HEIGHTS = ["no face", "under 16", *(f"{a}-{b}" for a, b in itertools.pairwise(HEIGHT_EDGES[1:])), "from 96"]


class Source(Protocol):
    def take(self, timeout_s: float) -> Shot | None:
        """The next picture, or None when none came in time."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is wanted: at most ``count`` pictures, of which no two differ in fewer than ``distance`` bits of their
    hashes. ``duration_s``: go on for so long, though the set is full, for better ones; None: until it is full.
    ``threshold``: from which score on a face is one."""

    count: int
    duration_s: float | None
    distance: int
    threshold: float


@dataclass(frozen=True, slots=True)
class Progress:
    """``seen`` pictures so far, ``alike`` of them left out as too like one of the ``kept``."""

    kept: int
    seen: int
    alike: int
    elapsed_s: float


def dhash(luma: ByteArray) -> int:
    """A difference hash of HASH_BITS: shrunk to 17x16, whether each pixel is brighter than its left neighbour (after
    N. Krawetz, "Kind of Like That", hackerfactor.com, 2013, who takes 9x8) by more than the noise that is left of a
    dark picture: without that no two empty frames of a night are alike."""
    # As floats: rounding to whole levels would be more noise than the camera's
    small = cv2.resize(luma.astype(np.float32), (17, 16), interpolation=cv2.INTER_AREA)
    bits = small[:, 1:] > small[:, :-1] + _NOISE
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def versions() -> dict[str, str]:
    """For the set's list."""
    import onnxruntime

    return {
        "facedetd": facedetd.__version__, "python": platform.python_version(), "numpy": np.__version__,
        "opencv": cv2.__version__, "onnxruntime": str(onnxruntime.__version__),
    }  # fmt: skip


class Collector:
    """Fills a set. ``about`` is written into its list beside frames, settings and statistics."""

    def __init__(
        self,
        place: CalibrationSet,
        detector: Detector,
        plan: Plan,
        about: Mapping[str, Any],
        mono: Callable[[], float] = time.monotonic,
    ):
        self._place, self._detector, self._plan, self._about, self._mono = place, detector, plan, about, mono
        before = place.about.get("statistics", {})
        self._seen, self._alike = int(before.get("seen", 0)), int(before.get("alike", 0))
        self._luma_seen = np.array(before.get("luma_seen") or np.zeros(LUMA_BINS)) * self._seen
        self._waiting: dict[str, tuple[Frame, bytes]] = {}
        self._hashes: list[int] = [f.candidate.hash for f in place.frames]

    def _statistics(self, frames: Sequence[Frame]) -> dict[str, Any]:
        """Of these frames, and of all that was seen for the set."""
        bins = [bins_of(f.candidate) for f in frames]
        found: dict[str, Any] = {
            "frames": len(frames), "seen": self._seen, "alike": self._alike,
            "hard": sum(f.hardness >= 0.5 for f in frames),
            "streams": dict(sorted(Counter(b.stream for b in bins).items())),
            "hours_utc": _named(Counter(b.hours for b in bins), _HOURS),
            "brightness": _named(Counter(b.brightness for b in bins), _LUMA),
            "faces": _named(Counter(b.faces for b in bins), _FACES),
            "smallest_face_model_px": _named(Counter(b.height for b in bins), _HEIGHTS),
        }  # fmt: skip
        found |= {"luma_of_set": [], "luma_seen": [], "luma_divergence": None}
        if frames and self._luma_seen.sum() > 0:
            of_set = np.mean([f.luma for f in frames], axis=0)
            found["luma_of_set"] = [round(float(v), 4) for v in of_set]
            found["luma_seen"] = [round(float(v), 4) for v in self._luma_seen / self._luma_seen.sum()]
            found["luma_divergence"] = round(divergence(list(of_set), list(self._luma_seen)), 4)
        return found

    def run(self, source: Source, stop: Callable[[], bool], progress: Callable[[Progress], None]) -> str:
        """Until the plan is fulfilled or ``stop()``; returns why it ended. What was seen is in the set then, also when
        this raises: SetError, ModelError, or what the source raises."""
        start = last_new = round_began = self._mono()
        try:
            while True:
                now = self._mono()
                if stop():
                    return "interrupted"
                if self._plan.duration_s is not None and now - start >= self._plan.duration_s:
                    return "the time is over"
                if self._plan.duration_s is None and len(self._place.frames) >= self._plan.count:
                    return "the set is full"
                if self._plan.duration_s is None and now - last_new >= IDLE_S:
                    return f"nothing new came for {IDLE_S / 60:.0f} min"
                shot = source.take(_TURN_S)
                if shot is not None and self._look(shot):
                    last_new = self._mono()
                due = len(self._waiting) >= _ROUND or self._mono() - round_began >= _ROUND_S
                full = self._plan.duration_s is None and self._kept >= self._plan.count
                if self._waiting and (due or full):
                    self._settle()
                    round_began = self._mono()
                progress(Progress(self._kept, self._seen, self._alike, self._mono() - start))
        finally:
            if self._waiting or not self._place.about:
                self._settle()

    @property
    def _kept(self) -> int:
        return min(self._plan.count, len(self._place.frames) + len(self._waiting))

    def _look(self, shot: Shot) -> bool:
        """Take a picture in for the next choice, unless it is like one of the set."""
        self._seen += 1
        frame = self._detector.frame(shot.bgr, self._detector.width, self._detector.height)
        g = frame.header.geometry
        luma = frame.nv12[g.pad_y : g.pad_y + g.height, g.pad_x : g.pad_x + g.width]
        counts = luma_counts(luma)
        shares = luma_shares(counts)
        self._luma_seen += shares
        hash_ = dhash(luma)
        name = picture_name(shot.stream, shot.utc_ns)
        if name in self._waiting or any(name == f.file for f in self._place.frames):
            self._alike += 1
            return False
        known = hash_array(self._hashes)
        if self._hashes and distances(known, hash_array([hash_])[0]).min() < self._plan.distance:
            self._alike += 1
            return False
        low = max(0.02, self._plan.threshold - _BELOW)
        outputs = self._detector.engine.infer([frame])
        found = faces_in_source(
            self._detector.head.decode(outputs, self._detector.width, self._detector.height, low)[0], g
        )
        faces = [face for face in found if face.score >= self._plan.threshold]
        heights = [face.box[3] - face.box[1] for face in faces]
        smallest = min(heights, default=0.0) * g.scale_y
        jpeg = shot.jpeg or _jpeg(shot.bgr)
        self._waiting[name] = (
            Frame(
                file=name,
                sha256=hashlib.sha256(jpeg).hexdigest(),
                stream=shot.stream,
                utc=utc_text(shot.utc_ns),
                width=shot.bgr.shape[1],
                height=shot.bgr.shape[0],
                luma_mean=round(float(luma.mean()), 2),
                luma=tuple(round(share, 6) for share in shares),
                dhash=f"{hash_:0{HASH_BITS // 4}x}",
                faces=len(faces),
                smallest_px=round(min(heights), 1) if heights else None,
                largest_px=round(max(heights), 1) if heights else None,
                smallest_model_px=round(smallest, 1) if heights else None,
                score_min=round(min(face.score for face in faces), 4) if faces else None,
                hardness=round(hardness([f.score for f in found], self._plan.threshold, smallest), 4),
                boxes=tuple((*(round(v, 1) for v in face.box), round(face.score, 4)) for face in faces),
            ),
            jpeg,
        )
        self._hashes.append(hash_)
        return True

    def _settle(self) -> None:
        """Choose among the set and what waits, and write that down."""
        frames = {f.file: f for f in (*self._place.frames, *(f for f, _ in self._waiting.values()))}
        chosen = choose([f.candidate for f in frames.values()], self._plan.count, self._plan.distance)
        pictures = {name: jpeg for name, (_, jpeg) in self._waiting.items()}
        self._waiting = {}
        kept = [frames[c.key] for c in chosen]
        at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        about = {**self._about, "written_utc": at, "versions": versions(), "statistics": self._statistics(kept)}
        self._place.replace(kept, pictures, about)
        self._hashes = [f.candidate.hash for f in kept]

    def write_sheet(self) -> None:
        """The first of the set, which are the most different ones, with their faces. Raises SetError."""
        pictures, faces = [], []
        for frame in self._place.frames[:_SHEET]:
            data = np.frombuffer((self._place.folder / frame.file).read_bytes(), np.uint8)
            pictures.append(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8))
            faces.append([Face((b[0], b[1], b[2], b[3]), b[4]) for b in frame.boxes])
        if pictures:
            self._place.write_sheet(_jpeg(contact_sheet(pictures, faces)))


def _jpeg(bgr: ByteArray) -> bytes:
    return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1])


def _named(counts: Counter[int], names: Sequence[str]) -> dict[str, int]:
    return {name: counts[i] for i, name in enumerate(names)}
