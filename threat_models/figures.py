"""The figures of a threat report, drawn from its JSON alone: SVG, the same bytes for the same report.

Colours repeat what texts and marks say, so that every figure reads in grey.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from secure_frl.errors import InvalidParameter

mpl.use("Agg")
import matplotlib.pyplot as plt  # after the choice of a backend without a screen
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Row = Mapping[str, Any]  # a row of the report's results; Any: JSON values
_STYLE: Any = {
    "svg.hashsalt": "secure_frl",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
_LINES = ("-", "--", "-.", ":")
_LOOKS: Any = (  # of defences: marks of their own, in shades that stay apart in grey
    {"marker": "o", "color": "C0", "markerfacecolor": "white", "markersize": 5},
    {"marker": "s", "color": "C1", "markersize": 4},
    {"marker": "D", "color": "C2", "markersize": 4},
    {"marker": "^", "color": "C3", "markersize": 4},
    {"marker": "v", "color": "C4", "markersize": 4},
    {"marker": "P", "color": "C5", "markersize": 4},
)
_SEEDS = 5  # that an interval of returns needs
_SHADES = {  # of verdicts; light enough for black text
    "control wins": "#d6e4f5",
    "holds": "#d5ecd4",
    "fails": "#f2a9a0",
    "INVALID": "#d9b8ea",
    "reported": "#f7ecc0",
    "broken by design": "#f6cfc0",
    "not tested": "#eeeeee",
}


def draw(report: Mapping[str, Any], folder: Path) -> list[Path]:  # Any: JSON values
    """Write each figure that the report has data for, as SVG, and return their paths.

    Raises InvalidParameter for an object that is no threat report.
    """
    if not isinstance(report.get("results"), list):
        raise InvalidParameter("expected a threat report with its results, got another object. Attack a study first.")
    rows: list[Row] = report["results"]
    written = []
    with mpl.rc_context(_STYLE):
        for name, made in _FIGURES.items():
            figure = made(rows)
            if figure is not None:
                path = folder / f"{name}.svg"
                figure.savefig(path, metadata={"Date": None, "Creator": None})
                plt.close(figure)
                written.append(path)
    return written


def _matrix(rows: Sequence[Row]) -> Figure | None:
    """Attacks down, defences across; where a pair has several cells, the one that says most against the defence."""
    tested = [row for row in rows if not row["reason"]]
    if not tested:
        return None
    attacks, defences = (list(dict.fromkeys(row[key] for row in tested)) for key in ("attack", "defence"))
    figure, axes = plt.subplots(figsize=(2.4 + 1.35 * len(defences), 0.8 + 0.62 * len(attacks)), layout="constrained")
    for pair in {(row["attack"], row["defence"]) for row in tested}:
        row = max((one for one in tested if (one["attack"], one["defence"]) == pair), key=_telling)
        x, y = defences.index(pair[1]), attacks.index(pair[0])
        axes.add_patch(mpl.patches.Rectangle((x, y), 1, 1, facecolor=_SHADES[row["verdict"]], edgecolor="white"))
        axes.text(x + 0.5, y + 0.5, _cell_text(row), ha="center", va="center", fontsize=7.5)
    axes.set_xlim(0, len(defences))
    axes.set_ylim(len(attacks), 0)
    axes.set_xticks(np.arange(len(defences)) + 0.5, [textwrap.fill(name, 14) for name in defences])
    axes.set_yticks(np.arange(len(attacks)) + 0.5, attacks)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(visible=False)
    return figure


_ORDER = ("control wins", "reported", "holds", "broken by design", "INVALID", "fails")


def _telling(row: Row) -> tuple[int, float]:
    """Return how much a cell says against its defence: what failed first, a control, whose defence is off, last."""
    return _ORDER.index(row["verdict"]), _lift(row)


def _lift(row: Row) -> float:
    """Return how far a cell is above chance, as a part of what is left above it; of returns, how much is lost."""
    if row["refusal"]:
        return -np.inf
    if row["value"] is None:
        return 0.0
    if row["metric"].startswith("return"):
        return float(1 - row["value"])
    chance = _chance(row, "swapped", "prior", "chance", "uniform") or 0.0
    return float((row["value"] - chance) / max(1e-9, 1 - chance)) if chance < 1 else 0.0


def _chance(row: Row, *names: str) -> float | None:
    """Return the first of a cell's nulls that has one of these names."""
    return next((row["nulls"][name] for name in names if name in row["nulls"]), None)


def _cell_text(row: Row) -> str:
    if row["refusal"]:
        return textwrap.fill(f"refused: {row['refusal']}", 18)
    if row["value"] is None:
        return str(row["verdict"])
    chance = _chance(row, "swapped", "prior", "chance")
    beside = "" if chance is None else f"\nchance {chance:.2f}"
    ends = ", ".join(_short(row[end], 2) for end in ("low", "high"))
    return f"{_short(row['value'], 3)} [{ends}]{beside}\n{row['verdict']}"


def _short(number: float, digits: int) -> str:
    return f"{number:.{digits}f}" if abs(number) < 1000 else f"{number:.0e}"


def _roc(rows: Sequence[Row]) -> Figure | None:
    """True against false positives, both as logarithms, with bands and the ceiling of each game."""
    drawn = [row for row in rows if row["curves"].get("fpr")]
    if not drawn:
        return None
    panels = list(dict.fromkeys((row["attack"], row["game"]) for row in drawn))
    figure, grid = _panels(len(panels))
    for axes, panel in zip(grid, panels, strict=True):
        shown = [row for row in drawn if (row["attack"], row["game"]) == panel]
        for number, row in enumerate(shown):
            curve, colour, line = row["curves"], f"C{number}", _LINES[number % len(_LINES)]
            axes.plot(curve["fpr"], curve["tpr"], line, color=colour, label=f"{row['defence']} {row['value']:.2f}")
            axes.fill_between(curve["fpr"], curve["tpr_low"], curve["tpr_high"], color=colour, alpha=0.15, linewidth=0)
            if "tpr_ceiling" in curve:
                axes.plot(
                    curve["fpr"], curve["tpr_ceiling"], line, color=colour, linewidth=0.8, marker="^", markersize=3
                )
        axes.plot([1e-3, 1], [1e-3, 1], color="0.6", linewidth=0.8)
        axes.set(xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(1e-3, 1.05))
        axes.set(xlabel="false positive rate", ylabel="true positive rate", title=f"{panel[0]}, {panel[1]}")
        axes.legend(fontsize=7, title="AUC; triangles: ceiling", title_fontsize=7)
    return figure


def _audit(rows: Sequence[Row]) -> Figure | None:
    """Epsilon that is claimed against what an audit proves; above the diagonal a claim is broken."""
    drawn = [row for row in rows if row["curves"].get("claimed")]
    if not drawn:
        return None
    figure, axes = plt.subplots(figsize=(4.2, 4), layout="constrained")
    for number, row in enumerate(drawn):
        is_control = row["kind"] == "control"
        mark, label = ("x" if is_control else "o"), f"{row['defence']} {row['game']}".strip()
        axes.plot(row["curves"]["claimed"], row["curves"]["proved"], mark, color=f"C{number}", label=label)
    most = 1.1 * max(max(row["curves"]["claimed"] + row["curves"]["proved"]) for row in drawn)
    axes.plot([0, most], [0, most], color="0.4", linewidth=0.8)
    axes.set(
        xlabel="epsilon claimed, at h shares", ylabel="epsilon proved, 99.9 % sure", xlim=(0, most), ylim=(0, most)
    )
    axes.legend(fontsize=7)
    return figure


def _trajectories(rows: Sequence[Row]) -> Figure | None:
    """A true trajectory beside its reconstruction, steps down and features across, for each defence."""
    drawn = [row for row in rows if row["curves"].get("trajectory_true")]
    if not drawn:
        return None
    figure, grid = plt.subplots(len(drawn), 2, figsize=(8, 0.8 + 1.7 * len(drawn)), squeeze=False, layout="constrained")
    for axes, row in zip(grid, drawn, strict=True):
        width = int(row["curves"]["trajectory_features"][0])
        for one, name in zip(axes, ("true", "guessed"), strict=True):
            values = np.array(row["curves"][f"trajectory_{name}"]).reshape(-1, width)
            one.imshow(values, aspect="auto", cmap="gray", vmin=-2.5, vmax=2.5)
            one.set(title=f"{row['defence']}: {name}", xlabel="feature", ylabel="step")
            one.grid(visible=False)
    return figure


def _returns(rows: Sequence[Row]) -> Figure | None:
    """Returns under attack as a part of the clean ones: by attack and rule, and against the number of malicious sites.

    An interval of fewer than five seeds is pale.
    """
    drawn = [row for row in rows if row["metric"].startswith("return") and not row["refusal"] and not row["reason"]]
    if not drawn:
        return None
    lines = _against_number(drawn)
    beyond = [row for line in lines.values() for row in line[2:]]  # a line's first number is listed too
    listed = [row for row in drawn if row not in beyond and row["figures"].get("malicious") != 0]
    games = list(dict.fromkeys((row["attack"], row["game"]) for row in listed))
    looks = dict(zip(dict.fromkeys(row["defence"] for row in drawn), _LOOKS, strict=False))
    width, height = (11.5 if lines else 7.5), max(3.2, 1.2 + 0.27 * len(games))
    figure, grid = plt.subplots(
        1,
        1 + bool(lines),
        figsize=(width, height),
        squeeze=False,
        width_ratios=(1.5, 1)[: 1 + bool(lines)],
        layout="constrained",
    )
    axes = grid[0, 0]
    for number, (defence, look) in enumerate(looks.items()):
        shown = [row for row in listed if row["defence"] == defence]
        at = [games.index((row["attack"], row["game"])) + 0.16 * (number - (len(looks) - 1) / 2) for row in shown]
        for row, y in zip(shown, at, strict=True):
            axes.plot([row["low"], row["high"]], [y, y], color=look["color"], linewidth=_weight(row))
        axes.plot([row["value"] for row in shown], at, linestyle="", label=defence, **look)
    axes.axvline(1.0, color="0.5", linewidth=0.8)
    axes.set_yticks(range(len(games)), [game for _, game in games], fontsize=7)
    axes.set(
        xlabel="return, as a part of the clean one; pale intervals: fewer than 5 seeds",
        xlim=(0, 1.25),
        ylim=(len(games) - 0.5, -0.5),
    )
    axes.legend(fontsize=7, loc="lower left")
    if lines:
        _draw_against_number(grid[0, 1], lines, looks)
    return figure


def _against_number(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Return, for each attack and defence measured with several numbers of malicious sites and with none, its rows."""
    counted = [row for row in rows if "malicious" in row["figures"]]
    none = {row["defence"]: row for row in counted if not row["figures"]["malicious"]}
    found: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(counted, key=lambda row: float(row["figures"]["malicious"])):
        if row["figures"]["malicious"] and row["defence"] in none:
            name = row["game"].rsplit(", ", 1)[0]
            found.setdefault((name, row["defence"]), [none[row["defence"]]]).append(row)
    return {key: line for key, line in found.items() if len(line) > 2}


def _draw_against_number(
    axes: Axes, lines: Mapping[tuple[str, str], Sequence[Row]], looks: Mapping[str, Mapping[str, Any]]
) -> None:
    names = list(dict.fromkeys(name for name, _ in lines))
    for (name, defence), line in lines.items():
        number = [row["figures"]["malicious"] for row in line]
        for x, row in zip(number, line, strict=True):
            axes.plot([x, x], [row["low"], row["high"]], color=looks[defence]["color"], linewidth=_weight(row))
        style = _LINES[names.index(name) % len(_LINES)]
        axes.plot(number, [row["value"] for row in line], style, label=f"{name}, {defence}", **looks[defence])
    sites = next(iter(lines.values()))[0]["figures"]["sites"]
    axes.axvspan(sites / 6, sites / 2, color="0.93", zorder=0)
    axes.text(sites / 6, 1.21, " nothing is claimed here", fontsize=7, va="top")
    axes.set_xticks(sorted({row["figures"]["malicious"] for line in lines.values() for row in line}))
    most = max(row["figures"]["malicious"] for line in lines.values() for row in line)
    axes.set(xlabel=f"malicious sites of {sites:.0f}", xlim=(-0.25, most + 0.25), ylim=(0, 1.25))
    axes.legend(fontsize=7, loc="center left")


def _weight(row: Row) -> float:
    return 0.3 if row["n"] < _SEEDS else 1.2


def _colluders(rows: Sequence[Row]) -> Figure | None:
    """Epsilon, and what leaks beside it, against the number of colluders; the charter's number is marked."""
    drawn = [row for row in rows if row["curves"].get("colluders")]
    if not drawn:
        return None
    figure, grid = _panels(2)
    for number, row in enumerate(drawn):
        curve, label, line = row["curves"], row["defence"], _LINES[number % len(_LINES)]
        grid[0].plot(curve["colluders"], curve["epsilon"], line, marker="o", markersize=3, label=label)
        middle = np.array(curve["excess"])
        ends = np.array([middle - curve["excess_low"], np.array(curve["excess_high"]) - middle])
        grid[1].errorbar(curve["colluders"], middle, np.clip(ends, 0, None), fmt=f"o{line}", markersize=3, capsize=2)
        for axes in grid:
            axes.axvline(curve["assumed"][0], color="0.4", linewidth=0.8, linestyle="--")
            axes.set(xlabel="sites that collude with the coordinator")
    grid[0].set(ylabel="epsilon, fewest survivors", yscale="log", title="dashed: what the charter assumes")
    grid[1].set(ylabel="states found over the swapped cohort")
    grid[0].legend(fontsize=7)
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    across = min(count, 3)
    down = -(-count // across)
    figure, grid = plt.subplots(down, across, figsize=(4 * across, 3.8 * down), squeeze=False, layout="constrained")
    every = list(grid.flat)
    for unused in every[count:]:
        unused.set_visible(False)
    return figure, every[:count]


_FIGURES: dict[str, Callable[[Sequence[Row]], Figure | None]] = {
    "matrix": _matrix,
    "roc": _roc,
    "epsilon_audited": _audit,
    "trajectories": _trajectories,
    "returns": _returns,
    "colluders": _colluders,
}
