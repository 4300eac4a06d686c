"""stats: what the daemon does now, once or again and again."""

from __future__ import annotations

import threading
from typing import Any

from facedetctl.commands import Call, Subparsers, add_command, positive
from facedetctl.exits import CtlError, Exit, UsageError
from facedetctl.output import Output, plain

MIN_INTERVAL_S = 0.2


def register(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "stats", stats, "show streams, processes, rates and latencies")
    parser.add_argument("ids", metavar="ID", nargs="*", help="only these streams")
    parser.add_argument("--watch", action="store_true", help="show them again and again")
    parser.add_argument("--interval", type=positive, default=1.0, metavar="S", help="seconds between (1, at least 0.2)")


def stats(call: Call) -> Exit:
    import grpc

    from facedetctl.render import stats_lines
    from facedetd.v1 import daemon_pb2

    args, out = call.args, call.out
    if args.interval < MIN_INTERVAL_S:
        raise UsageError(f"--interval: found {args.interval:g}; allowed is a number from {MIN_INTERVAL_S:g}")
    with call.connect() as client:
        if not args.watch:
            answer = client.daemon.GetStats(daemon_pb2.GetStatsRequest(stream_ids=args.ids), timeout=client.timeout)
            if out.json:
                out.data(plain(answer))
            else:
                out.lines(stats_lines(answer, out.size()[0], out.colour))
            return Exit.OK
        request = daemon_pb2.WatchStatsRequest(stream_ids=args.ids)
        request.interval.FromNanoseconds(round(args.interval * 1e9))
        screen = Screen(out)
        answers = client.daemon.WatchStats(request)
        patience = _Patience(answers, args.interval + client.timeout)
        try:
            for message in answers:
                patience.begin()
                if out.json:
                    out.data(plain(message.stats))
                else:
                    screen.show(stats_lines(message.stats, out.size()[0], out.colour))
                out.flush()
        except grpc.RpcError:
            if patience.over:
                raise CtlError(Exit.UNAVAILABLE, f"no answer within {client.timeout:g} s (--timeout)") from None
            raise
        finally:
            patience.end()
    return Exit.OK


class _Patience:
    """Cancels a stream of answers of which none comes for so long: what a daemon that hangs said last would stand there
    as if it were so now."""

    def __init__(self, answers: Any, seconds: float) -> None:
        self.over = False
        self._answers, self._seconds = answers, seconds
        self._timer: threading.Timer | None = None
        self.begin()

    def begin(self) -> None:
        """Anew from now on."""
        self.end()
        self._timer = threading.Timer(self._seconds, self._cancel)
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _cancel(self) -> None:
        self.over = True
        self._answers.cancel()


class Screen:
    """Shows blocks of lines one over the other on a terminal, and one below the other elsewhere."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._shown = 0
        self._first = True

    def show(self, lines: list[str]) -> None:
        height = self._out.size()[1]
        if height is None:
            self._out.lines(lines if self._first else ["", *lines])
            self._first = False
            return
        # One line stays free for the cursor: a block as high as the terminal would scroll at each redraw.
        room = max(height - 1, 2)
        if len(lines) > room:
            lines = [*lines[: room - 1], f"… {len(lines) - room + 1} more lines"]
        up = f"\x1b[{self._shown}A" if self._shown else ""
        body = "".join(f"{line}\x1b[K\n" for line in lines)
        # No wrapping meanwhile (DECAWM): a line wider than the terminal would be two, and the way up too short
        self._out.out.write(f"{up}\r\x1b[?7l{body}\x1b[?7h\x1b[J")
        self._shown = len(lines)
