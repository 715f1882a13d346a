"""A small curve of a plan: epsilon against rounds where each one counts, else against the noise; as text and as SVG.

The points are computed like every other stated epsilon; lines between them are drawn, not computed. No torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.sax.saxutils import escape

from secure_frl.errors import CharterRefused
from secure_frl.privacy import accountant
from secure_frl.privacy.plan import Plan
from secure_frl.privacy.planning import constants_at, planned_schedule
from secure_frl.study import Study

_POINTS = 17
_SPAN = 2.0  # noise from half of the plan's to twice as much
_COLUMNS, _ROWS = 56, 12  # of the text, in characters of 2 x 4 dots
_WIDTH, _HEIGHT = 640, 400  # of the SVG, in pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 24, 56, 60
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # bits of a Braille character, by row and column
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Curve:
    """Points from left to right, and the one that the plan stands at."""

    title: str
    x_label: str
    y_label: str
    points: tuple[Point, ...]
    here: Point


def curve_of(study: Study, plan: Plan) -> Curve:
    """Return epsilon by round when releases add up, else by noise multiplier. Raises CharterRefused without epsilon."""
    terms = plan.statement
    if terms.epsilon is None:
        raise CharterRefused("expected a study that states an epsilon, got one without. Draw no curve of it.")
    y_label = f"epsilon at delta {terms.delta:g}, one {terms.unit}"
    if len(set(plan.epsilon_by_round)) > 1:
        after = zip(plan.rounds_shown, plan.epsilon_by_round, strict=True)
        points = tuple((float(number), spent) for number, spent in after if spent is not None)
        return Curve("What a person has spent", "rounds", y_label, points, (float(plan.rounds), terms.epsilon))
    sigma = plan.constants.noise_multiplier
    places = [sigma * _SPAN ** (2 * i / (_POINTS - 1) - 1) for i in range(_POINTS)]
    spent_at = [(place, _spent(study, place)) for place in places]
    points = tuple(point for point in spent_at if math.isfinite(point[1]))
    return Curve("What noise buys", "noise multiplier, in clips", y_label, points, (sigma, terms.epsilon))


def _spent(study: Study, sigma: float) -> float:
    return accountant.epsilon_of_schedule(planned_schedule(study, constants_at(study, sigma)))


# --- as text ---------------------------------------------------------------------------------------------------------


def as_text(curve: Curve, *, braille: bool = True) -> str:
    """Return the curve for a terminal, 70 columns wide; braille: False for one that shows ASCII only."""
    (left, right), (low, high) = _ranges(curve)
    wide, tall = (_COLUMNS * 2, _ROWS * 4) if braille else (_COLUMNS, _ROWS)

    def place(point: Point) -> tuple[int, int]:
        column = round((point[0] - left) / (right - left) * (wide - 1))
        return column, round((high - point[1]) / (high - low) * (tall - 1))

    dots: set[tuple[int, int]] = set()
    for one, other in zip(curve.points, curve.points[1:], strict=False):
        (start, above), (stop, below) = place(one), place(other)
        steps = max(abs(stop - start), abs(below - above), 1)
        dots |= {
            (round(start + (stop - start) * i / steps), round(above + (below - above) * i / steps))
            for i in range(steps + 1)
        }
    column, row = place(curve.here)
    here = (column // 2, row // 4) if braille else (column, row)
    mark = "●" if braille else "O"
    lines = [f"{curve.title}: {curve.y_label}"]
    for y in range(_ROWS):
        cells = "".join(mark if (x, y) == here else _cell(dots, x, y, braille) for x in range(_COLUMNS))
        label = f"{high - (high - low) * y / (_ROWS - 1):.3g}" if y in (0, _ROWS // 2, _ROWS - 1) else ""
        lines.append(f"{label:>8} {'┤' if braille and label else '│' if braille else '|'}{cells}".rstrip())
    lines.append(" " * 9 + (f"└{'─' * _COLUMNS}" if braille else f"+{'-' * _COLUMNS}"))
    ends = f"{left:.3g}".ljust(_COLUMNS - len(f"{right:.3g}")) + f"{right:.3g}"
    lines += [" " * 10 + ends, " " * 10 + f"{curve.x_label}; {mark} = {curve.here[0]:.4g}, {curve.here[1]:.4g}"]
    return "\n".join(lines)


def _cell(dots: set[tuple[int, int]], x: int, y: int, braille: bool) -> str:
    if not braille:
        return "*" if (x, y) in dots else " "
    bits = sum(_DOTS[j][i] for j in range(4) for i in range(2) if (2 * x + i, 4 * y + j) in dots)
    return chr(0x2800 + bits) if bits else " "


# --- as SVG ----------------------------------------------------------------------------------------------------------


def as_svg(curve: Curve) -> str:
    """Return the curve as a picture of 640 x 400 that stands alone, with a title for who cannot see it."""
    (left, right), (low, high) = _ranges(curve)

    def place(point: Point) -> tuple[float, float]:
        across = (point[0] - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)
        return _LEFT + across, _TOP + (high - point[1]) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    floor, end = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" role="img" font-family="system-ui, sans-serif" font-size="13" fill="#222">',
        f"<title>{escape(f'{curve.title}: {curve.y_label}, by {curve.x_label}')}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="24" font-size="16" font-weight="600">{escape(curve.title)}</text>',
        f'<text x="{_LEFT}" y="43" fill="#555">{escape(curve.y_label)}</text>',
    ]
    for tick in _ticks(low, high):
        y = place((left, tick))[1]
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{end}" y2="{y:.1f}" stroke="#e3e3e3"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in _ticks(left, right):
        x = place((tick, low))[0]
        parts.append(f'<line x1="{x:.1f}" y1="{floor}" x2="{x:.1f}" y2="{floor + 5}" stroke="#222"/>')
        parts.append(f'<text x="{x:.1f}" y="{floor + 20}" text-anchor="middle">{tick:g}</text>')
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, curve.points))
    x, y = place(curve.here)
    parts += [
        f'<line x1="{_LEFT}" y1="{floor}" x2="{end}" y2="{floor}" stroke="#222"/>',
        f'<text x="{(_LEFT + end) / 2:.0f}" y="{_HEIGHT - 16}" text-anchor="middle">{escape(curve.x_label)}</text>',
        f'<polyline points="{line}" fill="none" stroke="#1f5fa8" stroke-width="2.5" stroke-linejoin="round"/>',
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5" fill="#c2410c" stroke="#fff" stroke-width="1.5"/>',
        f'<text x="{end}" y="43" text-anchor="end" font-weight="600" fill="#c2410c">this plan: '
        f"{curve.here[1]:.4g} at {curve.here[0]:.4g}</text>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _ranges(curve: Curve) -> tuple[Point, Point]:
    places, heights = [x for x, _ in curve.points], [y for _, y in curve.points]
    step = _step(0.0, max(heights))
    left, right = min(places), max(places)
    return (left, right if right > left else left + 1), (0.0, step * math.ceil(max(heights) / step))


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers in [low, high], three to eight of them."""
    step = _step(low, high)
    return [round(step * i, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _step(low: float, high: float) -> float:
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
