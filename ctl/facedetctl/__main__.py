"""How the command starts. A Ctrl-C while its modules load ends it by the signal, without a traceback."""

import signal
from typing import NoReturn


def main() -> NoReturn:
    interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else whoever started us ignores it
    if interrupts:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from facedetctl.main import main as run

    if interrupts:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
