"""The manifest: what a user writes. `load` reads it, or tells every problem it has."""

from __future__ import annotations

from tflite_guard.manifest.loading import load
from tflite_guard.manifest.types import Manifest

__all__ = ["Manifest", "load"]
