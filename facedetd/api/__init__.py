"""The gRPC face of the daemon: turns calls on two Unix sockets, and over TCP, into calls on the control plane
(:class:`facedetd.control.ControlPlane`).

Only the supervisor starts it (:class:`facedetd.api.server.ApiServer`). ``convert`` is pure and may also be used by
clients that want the daemon's own data classes. Nothing here knows how the control plane does its work.
"""

import os

# gRPC reads it once, when it is loaded. By itself it tells stderr of each TLS handshake that fails: anybody who reaches
# the port could fill the log.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
