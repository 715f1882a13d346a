"""A process that is one simulated site: `python -m secure_frl.federation.site_process RUN_FOLDER SITE_NAME`."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from secure_frl.federation import run_folder
from secure_frl.federation.carriers.pipe import serve
from secure_frl.federation.enrolment import open_site, read_enrolment, site_workers


def main(root: str, site_name: str) -> None:
    """Open the site from its own folder and answer frames on standard input until it ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no copy of keys or records reaches a disk when it fails
    folder, _, options = run_folder.reopen(Path(root))
    enrolled = read_enrolment(folder, rehearse=options.rehearse)
    site = open_site(folder, enrolled, enrolled.roster.id_of(site_name), workers=site_workers(enrolled))
    is_done = False
    try:
        is_done = serve(site, sys.stdin.buffer, sys.stdout.buffer)
    finally:
        site.shut_down(export=is_done)


if __name__ == "__main__":
    main(*sys.argv[1:])
