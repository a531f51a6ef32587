"""The console script and `python -m tflite_guard`: what must hold before anything that takes time is imported."""

import os
import signal
import sys


def main() -> None:
    """Run the command line. An interrupt while Python still imports it ends as one later does."""
    _open_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
        from tflite_guard import cli

        signal.signal(signal.SIGINT, signal.default_int_handler)
    else:  # ignored, as a shell has it for what runs in the background
        from tflite_guard import cli
    cli.main()


def _open_streams() -> None:
    """Have those that were closed lead nowhere: the next file that is opened would take their place."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - as long as we


def _interrupted(*_: object) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
