"""Logging for every process of the daemon: stdlib logging to stderr, as text or as JSON lines.

``setup`` once at a process's start; then plain ``logging.getLogger(__name__).info("connected", extra={"stream": id})``.
Nobody waits for a line to be written: facedetd.stderr.
Whatever looks like a URL loses its userinfo here. That is the second line of defence: nobody should log one.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType

from facedetd.stderr import StderrHandler

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
FORMATS = ("auto", "text", "json")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    0x0A: "\\n",
    0x0D: "\\r",
    0x09: "\\t",
}
_C1 = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}  # JSON lets these through, terminals obey them


def setup(level: str, fmt: str, worker: str = "") -> None:
    """Send this process's logs to stderr; may be called again (reload).

    ``level`` is a key of LEVELS. ``fmt`` is text, json, or auto: json when stderr goes to the journal, else text.
    On the journal each line begins with its syslog priority, ``<N>``. ``worker`` names the process in each line.
    Uncaught exceptions go the same way. Raises ValueError on another level or format.
    """
    if level not in LEVELS:
        raise ValueError(f"log level {level!r}; allowed: {', '.join(LEVELS)}")
    if fmt not in FORMATS:
        raise ValueError(f"log format {fmt!r}; allowed: {', '.join(FORMATS)}")
    journal = on_journal()
    context = {"worker": worker} if worker else {}
    handler = StderrHandler(sys.stderr)
    if fmt == "json" or (fmt == "auto" and journal):
        handler.setFormatter(JsonFormatter(journal, context))
    else:
        handler.setFormatter(TextFormatter(journal, context))
    root = logging.getLogger()
    for old in root.handlers[:]:
        if getattr(old, "_facedetd", False):
            root.removeHandler(old)
    handler._facedetd = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    root.setLevel(LEVELS[level])
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def on_journal(fd: int = 2, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a descriptor is the journal's stream: systemd names its device and inode in JOURNAL_STREAM."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def redact(text: str) -> str:
    """``scheme://user:pass@host`` becomes ``scheme://***@host``.

    Takes all from ``://`` to the last ``@`` before a space, since a password may hold ``@`` and ``/``: rather a
    host lost from a log line than a password kept.
    """
    if "://" not in text or "@" not in text:
        return text
    return re.sub(r"\S+", _redact_word, text)


def _redact_word(match: re.Match[str]) -> str:
    word = match.group()
    begin, end = word.find("://"), word.rfind("@")
    return f"{word[:begin]}://***{word[end:]}" if 0 <= begin < end else word


class _Formatter(logging.Formatter):
    def __init__(self, journal: bool, context: Mapping[str, object]):
        super().__init__()
        self._journal = journal
        self._context = context

    def _message(self, record: logging.LogRecord) -> str:
        return redact(record.getMessage())

    def _trace(self, record: logging.LogRecord) -> str:
        parts = []
        if record.exc_info:
            parts.append(self.formatException(record.exc_info))
        elif record.exc_text:
            parts.append(record.exc_text)
        if record.stack_info:
            parts.append(record.stack_info)
        return redact("\n".join(parts))

    def _fields(self, record: logging.LogRecord) -> dict[str, object]:
        extras = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        return {key: _plain(value) for key, value in {**self._context, **extras}.items()}

    def _prefix(self, record: logging.LogRecord) -> str:
        return f"<{_priority(record.levelno)}>" if self._journal else ""


class JsonFormatter(_Formatter):
    """One JSON object a line: time (UTC), level, logger, message, pid, worker, extras, exception."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._message(record),
            "pid": record.process,
        }
        for key, value in self._fields(record).items():
            entry.setdefault(key, value)
        if trace := self._trace(record):
            entry["exception"] = trace
        return self._prefix(record) + json.dumps(entry, ensure_ascii=False).translate(_C1)


class TextFormatter(_Formatter):
    """``time LEVEL logger: message key=value``, times in UTC; on the journal, which has its own, without the time.

    Control characters are escaped: what a camera says can't forge a line or move a terminal's cursor.
    """

    def format(self, record: logging.LogRecord) -> str:
        head = f"{record.levelname:<7} {record.name}: " if self._journal else (
            f"{_utc(record.created)} {record.levelname:<7} {record.name}: "
        )  # fmt: skip
        fields = "".join(f" {key}={_shown(value)}" for key, value in self._fields(record).items())
        lines = [head + self._message(record).translate(_CONTROL) + fields]
        if trace := self._trace(record):
            lines += ["  " + line.translate(_CONTROL) for line in trace.split("\n")]
        prefix = self._prefix(record)
        return "\n".join(prefix + line for line in lines)


def _utc(created: float) -> str:
    millis = math.floor(created * 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(millis // 1000))}.{millis % 1000:03d}Z"


def _plain(value: object) -> object:
    """What JSON can say, without userinfo."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return redact(str(value))


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    bare = text.isprintable() and not any(c in ' "=' for c in text) and text
    return text if bare else json.dumps(text, ensure_ascii=False).translate(_CONTROL)


def _priority(level: int) -> int:
    """The syslog priority (RFC 5424) of a logging level."""
    for at_least, priority in ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6)):
        if level >= at_least:
            return priority
    return 7


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("facedetd").critical("uncaught exception", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or issubclass(args.exc_type, SystemExit):
        return
    logging.getLogger("facedetd").critical(
        "uncaught exception in a thread",
        exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
        extra={"thread_name": args.thread.name if args.thread else "?"},
    )
