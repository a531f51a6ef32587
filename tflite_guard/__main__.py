"""The console script and `python -m tflite_guard`: what must hold before anything that takes time is imported."""

import os
import signal
import sys


def main() -> None:
    """Run the command line. An interrupt while Python still imports it ends as one later does."""
    _open_streams()
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:  # else ignored, as a shell has it for what runs in the background
        signal.signal(signal.SIGINT, _interrupted)
    from tflite_guard import cli

    try:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        cli.main()
    except KeyboardInterrupt:  # before it sees to that itself, or a second one while it does
        sys.exit(130)


def _open_streams() -> None:
    """Have those that were closed lead nowhere: the next file that is opened would take their place.

    What starts us may have left them such that a full pipe is an error, as Node does.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free
        if os.name == "posix" and mode == "w":
            os.set_blocking(descriptor, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - as long as we


def _interrupted(*_: object) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
