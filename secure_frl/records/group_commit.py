"""One sync for the rows of many simulated sites in one process: a thousand of them would wait seconds for single ones.

Each site keeps its own files and chains. A commit is then in the kernel's hands, so a kill loses nothing; it is on disk
when `sync` returns, and whoever drives the sites hands nothing over before that. Real sites never use this.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path


class GroupCommit:
    """The databases below one folder, synced together."""

    def __init__(self, folder: Path) -> None:
        """folder: holds every database of the group; one file system."""
        self._folder = folder

    def sync(self) -> None:
        """Wait until all that was committed is on disk. Raises OSError when the disk could not take it."""
        handle = os.open(self._folder, os.O_RDONLY)
        try:
            _sync_file_system(handle)
        finally:
            os.close(handle)


def _sync_file_system(handle: int) -> None:
    """Sync the file system of an open file: syncfs(2) where it exists, else sync(2) for all of them."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if call is None:
        os.sync()
    elif call(handle) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
