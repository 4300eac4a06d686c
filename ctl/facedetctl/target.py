"""Where the daemon is and how to get in: a Unix socket, or an address with TLS. Light: no gRPC here."""

from __future__ import annotations

import argparse
import os
import re
import socket
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from facedetctl.exits import CtlError, Exit, UsageError
from facedetd.config.urls import split_host_port

SOCKET = "/run/facedetd/facedetd.sock"
CA_FILE = "/etc/ssl/certs/ca-certificates.crt"
MAX_TOKEN_FILE_BYTES = 65536

OPTIONS = (
    ("--address", "HOST:PORT", "the daemon's TCP listener, instead of a socket ($FACEDETCTL_ADDRESS)"),
    ("--tls-ca", "FILE", f"authorities that may sign the daemon's certificate ($FACEDETCTL_TLS_CA, {CA_FILE})"),
    ("--tls-cert", "FILE", "your certificate for --address ($FACEDETCTL_TLS_CERT)"),
    ("--tls-key", "FILE", "its key ($FACEDETCTL_TLS_KEY)"),
    ("--token-file", "FILE", "a file with your token for --address ($FACEDETCTL_TOKEN_FILE)"),
)


@dataclass(frozen=True, slots=True)
class Local:
    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def probe(self, timeout: float) -> None:
        """gRPC says only 'failed to connect'; a plain connect says why. Raises CtlError."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(timeout)
            try:
                probe.connect(os.fspath(self.path))
            except FileNotFoundError:
                message = f"no daemon: {self.path} does not exist (is facedetd running?)"
                raise CtlError(Exit.UNREACHABLE, message) from None
            except ConnectionRefusedError:
                raise CtlError(Exit.UNREACHABLE, f"no daemon listens on {self.path} (did facedetd end?)") from None
            except PermissionError:
                hint = "only its owner and group may use it"
                if not self.path.stem.endswith("-ro"):
                    hint += f"; for reading try --socket {read_only(self.path)}"
                raise CtlError(Exit.DENIED, f"may not open {self.path}: {hint}") from None
            except OSError as error:
                raise CtlError(Exit.UNREACHABLE, f"can't connect to {self.path}: {error}") from None


def read_only(path: Path) -> Path:
    return path.with_name(f"{path.stem}-ro{path.suffix}")


@dataclass(frozen=True, slots=True, repr=False)
class Remote:
    """``host`` has no brackets; the files are paths, empty where there is none. No repr: ``token`` is secret."""

    host: str
    port: int
    ca_file: str
    cert_file: str
    key_file: str
    token: str

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def probe(self, timeout: float) -> None:
        """One TLS connection, whose failure has a reason, unlike gRPC's. Raises UsageError and CtlError."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # on since Python 3.13; gRPC isn't as strict
        except (OSError, ValueError) as error:
            raise UsageError(f"--tls-ca {self.ca_file}: {_reason(error)}") from None
        try:
            if self.cert_file:
                context.load_cert_chain(self.cert_file, self.key_file, password=lambda: b"")
        except (OSError, ValueError) as error:
            raise UsageError(f"--tls-cert {self.cert_file}, --tls-key {self.key_file}: {_reason(error)}") from None
        context.set_alpn_protocols(["h2"])
        try:
            with (
                socket.create_connection((self.host, self.port), timeout) as plain,
                context.wrap_socket(plain, server_hostname=self.host) as secure,
            ):
                # The daemon speaks first. With TLS 1.3 it judges our certificate only now, and gRPC says nothing of it.
                if not secure.recv(1):
                    raise CtlError(*self._refused())
        except ssl.SSLCertVerificationError as error:
            message = f"{self}: its certificate is not good: {error.verify_message} (--tls-ca {self.ca_file})"
            raise CtlError(Exit.DENIED, message) from None
        except ssl.SSLEOFError:
            raise CtlError(Exit.UNREACHABLE, f"{self} closed the connection (does it have too many?)") from None
        except ssl.SSLError as error:
            if "ALERT" in (error.reason or ""):
                raise CtlError(*self._refused()) from None
            raise CtlError(Exit.UNREACHABLE, f"{self} does not speak TLS: {_reason(error)}") from None
        except (OSError, UnicodeError) as error:  # UnicodeError: a part of the name is empty or too long for DNS
            raise CtlError(Exit.UNREACHABLE, f"no daemon answers on {self}: {_reason(error)}") from None

    def _refused(self) -> tuple[Exit, str]:
        if self.cert_file:
            return Exit.DENIED, f"{self} refuses the client certificate {self.cert_file}: expired, or of a foreign CA?"
        return Exit.DENIED, f"{self} wants a client certificate (--tls-cert, --tls-key)"


Target = Local | Remote


def target_of(args: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Target:
    """What the command line says, then the environment. Raises UsageError."""
    if args.socket and args.address:
        raise UsageError("--socket and --address are both given; give one")
    address = args.address or ("" if args.socket else environ.get("FACEDETCTL_ADDRESS", ""))
    if not address:
        return Local(args.socket or Path(environ.get("FACEDETD_SOCKET") or SOCKET))
    found = {}
    for option, _, _ in OPTIONS[1:]:
        name = option.strip("-").replace("-", "_")
        found[name] = getattr(args, name) or environ.get(f"FACEDETCTL_{name.upper()}", "")
    if bool(found["tls_cert"]) != bool(found["tls_key"]):
        raise UsageError("--tls-cert and --tls-key belong together; give both or none")
    try:
        host, port = split_host_port(address)
    except ValueError as error:
        raise UsageError(f"--address: found {address!r}: {error}") from None
    if not host or port is None:
        raise UsageError(f"--address: found {address!r}; write HOST:PORT")
    token = read_token(Path(found["token_file"])) if found["token_file"] else ""
    return Remote(host, port, found["tls_ca"] or CA_FILE, found["tls_cert"], found["tls_key"], token)


def read_token(path: Path) -> str:
    """The token that is all of a file. Raises UsageError, also for a file that others may read."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISREG(mode) and mode & (stat.S_IROTH | stat.S_IWOTH):
                raise UsageError(f"{path} is open to everyone; run: chmod 600 {path}")
            text = file.read(MAX_TOKEN_FILE_BYTES).decode(errors="replace").strip()
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from None
    if not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", text):
        raise UsageError(f"{path} must hold one token and nothing else (without admin: or read-only: before it)")
    return text


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "TLS failed").replace("_", " ").lower()
    if isinstance(error, UnicodeError):
        return "a part of the host's name is empty, or too long for DNS"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
