"""A camera behind a network that swallows packets: while it streams, and when it is connected to."""

from __future__ import annotations

import pytest

from tests.cameras import CameraServer, Clip
from tests.faults.camera_kit import Field
from tests.faults.camera_netns import Namespace, namespaces_possible


@pytest.mark.skipif(not namespaces_possible(), reason="makes a network namespace, which needs root")
def test_blackholed(field: Field, light_clip: Clip) -> None:
    with (
        Namespace() as network,
        field.row() as bad,
        CameraServer([light_clip], host=network.address, netns=network.name) as server,
    ):
        bad.add(server.url(0))
        bad.runs()
        network.swallow()
        bad.says("^no packet for 2 s$")
        bad.says("^no answer within 2 s$")
        network.pass_on()
        bad.recovers()
