"""Where a run's files lie, and how a run folder is begun: whole, or not at all.

A folder is never overwritten. It appears by a rename with the study and the options already in it, so a run that is
killed at any later moment can be resumed.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from secure_frl.errors import InvalidParameter, StudyRefused
from secure_frl.study import Study
from secure_frl.study_file import parse_study

OPTIONS_FORMAT = "secure_frl/run/v1"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run is carried out; nothing here changes what is promised."""

    rehearse: bool = False
    state: Path | None = None  # ledgers shared by studies on one data set; None: inside the run folder
    capture: Path | None = None


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of one run."""

    root: Path
    state: Path

    @property
    def charter(self) -> Path:
        """Return the signed charter; it exists once every site has signed."""
        return self.root / "charter.json"

    @property
    def roster(self) -> Path:
        """Return the signed roster."""
        return self.root / "roster.toml"

    @property
    def journal(self) -> Path:
        """Return the coordinator's journal."""
        return self.root / "journal.sqlite"

    @property
    def rounds(self) -> Path:
        """Return the exported account of rounds."""
        return self.root / "rounds.jsonl"

    @property
    def protections(self) -> Path:
        """Return the account of what was in force in each round, and who could have read what."""
        return self.root / "protections.jsonl"

    @property
    def metrics(self) -> Path:
        """Return the released values of each round."""
        return self.root / "metrics.jsonl"

    @property
    def result(self) -> Path:
        """Return the summary that `run --json` prints."""
        return self.root / "result.json"

    @property
    def policies(self) -> Path:
        """Return the folder of released policies."""
        return self.root / "policies"

    @property
    def ledgers(self) -> Path:
        """Return the folder of exported ledgers and their signed heads."""
        return self.root / "ledgers"

    @property
    def manifest(self) -> Path:
        """Return the manifest, which is written last."""
        return self.root / "manifest.json"

    @property
    def sites(self) -> Path:
        """Return the folder of the simulated sites' folders, and of the books that many of them share."""
        return self.state / "sites"

    def site(self, name: str) -> Path:
        """Return a simulated site's own folder."""
        return self.sites / name

    @property
    def coordinator(self) -> Path:
        """Return the coordinator's own folder."""
        return self.state / "coordinator"

    @property
    def held_heads(self) -> Path:
        """Return the folder of heads that sites signed for the coordinator: what it holds against older copies."""
        return self.coordinator / "heads"

    @property
    def consortium(self) -> Path:
        """Return the folder of the key that signs a simulation's roster."""
        return self.state / "consortium"


def next_free_path(parent: Path, name: str) -> Path:
    """Return parent/name, or parent/name-2 and so on: a run never overwrites a folder, nor a capture."""
    candidate, number = parent / name, 1
    while candidate.exists():
        number += 1
        candidate = parent / f"{name}-{number}"
    return candidate


def begin(root: Path, study: Study, options: RunOptions, source: Path | None) -> RunFolder:
    """Make a run folder with its study and options.

    source: the study file as people wrote it, kept beside the effective study.
    Raises InvalidParameter when the folder or the capture exists, or when a shared state lies inside the folder,
    lacks a data set's name, or is asked for by a rehearsal; also for a named data set without such a state.
    """
    if root.exists():
        raise InvalidParameter(
            f"expected a new folder, but {root} exists. "
            f"To go on with that run use `secure-frl resume {root}`, else choose another --out."
        )
    if options.capture is not None and options.capture.exists():
        raise InvalidParameter(f"expected a new capture file, but {options.capture} exists. Choose another --capture.")
    if options.capture is not None and not (options.capture.parent.is_dir() or options.capture.parent == root):
        raise InvalidParameter(
            f"expected a capture in a folder that exists, got {options.capture}. Make the folder, or choose another."
        )
    if options.state is not None:
        if options.rehearse:
            raise InvalidParameter(
                "a rehearsal's noise follows from a seed, so it may not touch books that studies share. "
                "Leave --state out, or rehearse without it."
            )
        if options.state.resolve().is_relative_to(root.resolve()):
            raise InvalidParameter(
                f"expected a shared state outside {root}, got {options.state}. Choose another --state."
            )
        if not study.data.dataset_id:
            raise InvalidParameter(
                "a state that studies share belongs to one data set, but data.dataset_id is empty. "
                "Name the data set in the study, or leave --state out."
            )
    elif study.data.dataset_id:
        raise InvalidParameter(
            f"expected --state for data set {study.data.dataset_id}, got none: its lifetime budget would be forgotten "
            "with this run. Give the folder that keeps its books, or leave data.dataset_id empty for fresh people."
        )
    if study.is_logged and not study.data.dataset_id and not options.rehearse:
        raise InvalidParameter(
            "logged data are met again by every study, but data.dataset_id is empty, so their budget would be "
            "forgotten. Name the data set and give --state; made-up tables may be rehearsed with."
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = root.parent / f".{root.name}.{os.getpid()}.draft"
    draft.mkdir()
    try:
        if source is not None:
            shutil.copyfile(source, draft / "study.toml")
        described = {
            "format": OPTIONS_FORMAT,
            "study": study.plain(),
            "rehearse": options.rehearse,
            "state": str(options.state.resolve()) if options.state else "",
            "capture": str(options.capture.resolve()) if options.capture else "",
        }
        (draft / "run.json").write_text(json.dumps(described, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        draft.rename(root)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return RunFolder(root, options.state.resolve() if options.state else root / "state")


def reopen(root: Path) -> tuple[RunFolder, Study, RunOptions]:
    """Read a run folder's study and options back. Raises StudyRefused when it holds no run of this version."""
    path = root / "run.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudyRefused(f"expected a run folder, but {path} cannot be read. Check the path.") from error
    known = {"format", "study", "rehearse", "state", "capture"}
    if not isinstance(described, dict) or set(described) != known or described["format"] != OPTIONS_FORMAT:
        raise StudyRefused(f"{path} is not of format {OPTIONS_FORMAT}. Use the version that wrote it.")
    study = parse_study(described["study"], source=str(path))
    state = Path(described["state"]) if described["state"] else None
    capture = Path(described["capture"]) if described["capture"] else None
    options = RunOptions(rehearse=bool(described["rehearse"]), state=state, capture=capture)
    return RunFolder(root, state if state is not None else root / "state"), study, options
