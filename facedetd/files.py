"""Files that are whole or aren't there, for whoever may read them: models, plans and what belongs to them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def staged(files: Mapping[Path, bytes]) -> Iterator[None]:
    """All files complete and synced beside their places first; where the block ends well each goes into its place, in
    their order. Mode 0644. Raises OSError; nothing is left behind then, nor where the block raises."""
    with ExitStack() as stack:
        ready = []
        for path, data in files.items():
            file = stack.enter_context(tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=".new-", delete=False))
            stack.callback(Path(file.name).unlink, missing_ok=True)
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)  # the daemon runs as another user than the one who makes them
            os.fsync(file.fileno())
            ready.append((Path(file.name), path))
        yield
        for fresh, path in ready:
            fresh.replace(path)


def write_whole(files: Mapping[Path, bytes]) -> None:
    """As :func:`staged`, with nothing to do in between."""
    with staged(files):
        pass
