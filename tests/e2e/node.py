"""npm's packages, as a lock file of these tests pins them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def install(lock: str, folder: Path) -> Path:
    """Install what a folder beside this file pins, and give where."""
    shutil.copytree(Path(__file__).parent / lock, folder, dirs_exist_ok=True)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr
    return folder
