"""Why a camera can't be reached, where FFmpeg only says "Input/output error": asks the system and TLS itself."""

from __future__ import annotations

import socket
import ssl

from facedetd.config.urls import split_host_port

_PORTS = {"rtsp": 554, "rtsps": 322}


def why_unreachable(
    scheme: str, authority: str, tls_verify: bool, ca_file: str, timeout_s: float
) -> tuple[str, str] | None:
    """(kind of :class:`facedetd.capture.source.ErrorKind`, reason), or None when host, port and TLS are well."""
    try:
        host, port = split_host_port(authority.rpartition("@")[2])
    except ValueError as error:
        return "failed", f"the URL's host is bad: {error}"
    try:
        with socket.create_connection((host, port or _PORTS[scheme]), timeout=timeout_s) as plain:
            if scheme == "rtsps":
                context = ssl.create_default_context(cafile=ca_file or None)
                if not tls_verify:
                    context.check_hostname = False
                    context.verify_mode = ssl.CERT_NONE
                context.wrap_socket(plain, server_hostname=host).close()
    except (socket.gaierror, UnicodeError):  # the latter: a label that is empty or too long for a name
        return "unreachable", f"the name {host} is not known"
    except ssl.SSLCertVerificationError as error:
        return "tls", f"the camera's certificate isn't valid: {error.verify_message}"
    except ssl.SSLError as error:
        return "tls", f"no TLS with the camera: {error.reason or 'handshake failed'}"
    except TimeoutError:
        return "timed-out", f"no answer within {timeout_s:g} s"
    except ConnectionRefusedError:
        return "refused", "connection refused"
    except OSError as error:
        return "unreachable", f"can't be reached: {error.strerror or 'network error'}"
    return None
