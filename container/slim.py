"""Takes out of an environment what no program at work needs: headers, libclang, tests, tools and symbols.

python3 slim.py /opt/tflite-guard
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

# Relative to site-packages. The accelerator is for browsers, the program prepares models for accelerators of phones.
UNUSED = (
    "tensorflow/include",
    "tensorflow/xla_aot_runtime_src",
    "clang",
    "libclang-*.dist-info",
    "ai_edge_litert/libLiteRtWebGpuAccelerator.so",
    "ai_edge_litert/tools/apply_plugin_main",
    "**/tests",
)
# Only these are stripped, where most is to be won. What lies in a `.libs` folder was patched to make its wheel,
# and `strip` leaves such libraries unloadable ("address/offset not page-aligned").
STRIPPED = ("tensorflow", "ai_edge_litert", "grpc")


def main(environment: Path) -> None:
    """Slim the virtual environment in this folder."""
    (packages,) = environment.glob("lib/python3*/site-packages")
    for path in [path for pattern in UNUSED for path in packages.glob(pattern)]:
        remove(path)
    libraries = [path for name in STRIPPED for path in packages.glob(f"{name}/**/*.so*")]
    subprocess.run(["strip", "--strip-unneeded", *libraries], check=True)


def remove(path: Path) -> None:
    """Remove a file or folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
