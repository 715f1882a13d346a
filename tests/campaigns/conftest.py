"""Campaigns share plain modules beside them; they are imported by name, so that worker processes find them too."""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = str(Path(__file__).parent)
if FOLDER not in sys.path:
    sys.path.insert(0, FOLDER)
