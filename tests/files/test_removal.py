"""What an untrusted process leaves is removed, whatever it is, and nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from tflite_guard.files.removal import remove


def nested(folder: Path, levels: int) -> None:
    """Folders within folders, deeper than any path may be long."""
    place = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("inner", dir_fd=place)
        inner = os.open("inner", os.O_RDONLY, dir_fd=place)
        os.close(os.open("file", os.O_CREAT, dir_fd=inner))
        os.close(place)
        place = inner
    os.close(place)


def test_folders_of_any_depth_go(tmp_path: Path) -> None:
    (tmp_path / "left").mkdir()
    nested(tmp_path / "left", 3000)
    remove(tmp_path / "left")
    assert list(tmp_path.iterdir()) == []


def test_links_pipes_and_sockets_go_and_what_links_lead_to_stays(tmp_path: Path) -> None:
    kept, left = tmp_path / "kept", tmp_path / "left"
    (kept / "inner").mkdir(parents=True)
    (kept / "file").touch()
    kept.chmod(0o500)
    left.mkdir()
    (left / "link").symlink_to(kept)
    (left / "deep").mkdir()
    (left / "deep" / "link").symlink_to(kept)
    (left / "nowhere").symlink_to("nothing")
    os.mkfifo(left / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(left / "socket"))
    remove(left)
    assert not left.exists()
    assert sorted(path.name for path in kept.iterdir()) == ["file", "inner"]
    assert kept.stat().st_mode & 0o777 == 0o500
    (tmp_path / "link").symlink_to(kept)
    remove(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    kept.chmod(0o700)


def test_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    remove(tmp_path / "none" / "of this")


def test_folders_without_permissions_go(tmp_path: Path) -> None:
    for path in ("left/closed/inner", "left/open/closed/inner"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "file").touch()
        (tmp_path / path).chmod(0)
        (tmp_path / path).parent.chmod(0)
    (tmp_path / "left").chmod(0)
    powerless = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    code = "import sys; from tflite_guard.files.removal import remove; remove(sys.argv[1])"
    subprocess.run([*powerless, sys.executable, "-c", code, str(tmp_path / "left")], check=True)
    assert list(tmp_path.iterdir()) == []
