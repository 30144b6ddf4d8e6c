"""Figures as a paper prints them: one style, drawn without pyplot's global state, written whole as PNG and PDF."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from pmpjax.runs.files import atomic, with_ending

# Okabe and Ito's colours: told apart by colour-blind readers, and in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

STYLE: dict[Any, Any] = {
    "font.family": "serif",
    "font.serif": ["STIXGeneral", "DejaVu Serif"],
    "mathtext.fontset": "stix",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "axes.prop_cycle": cycler(color=COLOURS),
}


@contextmanager
def figure(
    path: Path | str, rows: int = 1, columns: int = 1, width: float = 3.3, height: float = 2.4
) -> Iterator[tuple[Figure, np.ndarray]]:
    """Yields a figure and its axes [rows, columns]; writes `path`.png and `path`.pdf when the block ends.

    `path` may end with one of those. `width` and `height` are inches a panel. The same data give the same bytes: no
    dates are written.
    """
    plain = Path(path).with_suffix("") if Path(path).suffix in (".png", ".pdf") else Path(path)
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(width * columns, height * rows), layout="constrained")
        FigureCanvasAgg(drawn)
        yield drawn, drawn.subplots(rows, columns, squeeze=False)
        drawn.draw_without_rendering()  # the layout once, not once a file
        drawn.set_layout_engine("none")
        for suffix, extra in ((".png", {}), (".pdf", {"CreationDate": None})):
            with atomic(with_ending(plain, suffix)) as temporary:
                drawn.savefig(temporary, metadata=extra or None)


def band(axes: Axes, x: Sequence[float] | np.ndarray, runs: np.ndarray, label: str, colour: str | None = None) -> None:
    """Draws the mean of `runs` [runs, points] as a line, and their extremes as a band around it."""
    runs = np.atleast_2d(np.asarray(runs))
    (line,) = axes.plot(x, runs.mean(0), label=label, color=colour)
    if len(runs) > 1:
        axes.fill_between(x, runs.min(0), runs.max(0), color=line.get_color(), alpha=0.18, linewidth=0)


def log_scale(axes: Axes) -> None:
    """Makes the vertical axis logarithmic, with plain numbers where it spans little."""
    axes.set_yscale("log")
    axis = axes.yaxis
    low, high = axes.get_ylim()
    if 0 < low < high < 300 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 4, 5, 7)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def thin(count: int, keep: int) -> np.ndarray:
    """At most `keep` indices of `count`, the first and last among them, denser at the start (geometric).

    >>> thin(100, 5).tolist()
    [0, 2, 9, 31, 99]
    """
    if count <= keep:
        return np.arange(count)
    return np.unique(np.round(np.geomspace(1, count, keep)).astype(int)) - 1
