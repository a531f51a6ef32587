"""What an unchanged manifest costs: `tflite-guard check`, all of it from the cache, as a whole process.

python bench/warm.py [--runs N] COMMAND... measures each tflite-guard (paths of programs, such as those of two
environments) on the digits example, in turn, and prints the least and the median of processor time and wall time. The
least is what to compare on a machine that does other things. Bytecode must have been compiled, as pip does; a first
run, which fills the cache, is not counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

MANIFEST = Path(__file__).parents[1] / "examples" / "digits" / "tflite-guard.json"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commands", nargs="+", metavar="COMMAND", help="a tflite-guard to run")
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="of each; default 20")
    arguments = parser.parse_args()
    seconds: dict[str, list[tuple[float, float]]] = {command: [] for command in arguments.commands}
    with tempfile.TemporaryDirectory(prefix="warm-") as work:
        for number, command in enumerate(arguments.commands):
            run(command, Path(work) / str(number))
        for turn in range(arguments.runs):
            for number, command in list(enumerate(arguments.commands))[:: 1 if turn % 2 == 0 else -1]:
                seconds[command].append(run(command, Path(work) / str(number)))
    first = min(cpu for cpu, _ in seconds[arguments.commands[0]])
    for command, measured in seconds.items():
        (cpu, cpu_median), (wall, wall_median) = (
            (min(column), statistics.median(column)) for column in zip(*measured, strict=True)
        )
        print(
            f"{command}: CPU {cpu:.3f} s (median {cpu_median:.3f}), wall {wall:.3f} s (median {wall_median:.3f}), "
            f"CPU {cpu / first:.2f} of the first"
        )


def run(command: str, cache: Path) -> tuple[float, float]:
    """Processor time and wall time of a check. Raises SystemExit where it did not pass."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    process = subprocess.Popen(
        [command, "check", str(MANIFEST), "--cache-dir", str(cache)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, seconds


if __name__ == "__main__":
    main()
