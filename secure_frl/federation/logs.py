"""A party's own log: a file in its own folder, readable by its owner only, never passed on to another logger.

A site's log may count what its data did (units that count as zero), so it never leaves the site.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def open_log(path: Path) -> logging.Logger:
    """Return the logger that appends to this file, made with mode 0600."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    logger = logging.Logger(str(path), logging.INFO)  # outside the tree of loggers: nothing else can listen
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(_FORMAT))
    logger.addHandler(handler)
    return logger


def close_log(logger: logging.Logger) -> None:
    """Flush and close the file; a second call does nothing."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
