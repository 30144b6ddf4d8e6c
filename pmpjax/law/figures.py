"""The Learning Law's figures, as PNG and PDF, from the arrays of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from pmpjax.law.policies import GROUPS
from pmpjax.law.scaling import ScalingLaw
from pmpjax.runs import plots

_MAP = "viridis_r"
Arrays = Mapping[str, np.ndarray]


def loss_curves(path: Path, history: Arrays, final: Arrays) -> None:
    """J against training step on the desired dev and test sets, a curve for each of some outer iterations."""
    with plots.figure(path, columns=2, width=3.2, height=2.5) as (figure, (axes,)):
        for axis, name in zip(axes, ("dev", "test"), strict=True):
            _by_iteration(figure, axis, np.arange(history[name].shape[1]), history[name], bar=name == "test")
            axis.plot(final[f"{name}_uniform"], color="black", linestyle="--", label="uniform policy")
            axis.axhline(final[f"{name}_uniform"][-1], color="black", linewidth=0.5, linestyle=":")
            axis.set(xlabel="training step $t$", ylabel=f"desired loss ({name} set)")
            plots.log_scale(axis)
            axis.legend(loc="upper right")


def convergence(path: Path, history: Arrays, compiling: float) -> None:
    """AUC of the desired dev loss and AR on the desired test set, against sweeps and seconds (without compiling)."""
    kept = history["accepted"].astype(bool)
    clock = np.maximum(history["seconds"] - compiling, 0)
    with plots.figure(path, 2, 2, width=3.0, height=2.1) as (_, axes):
        for column, (x, label) in enumerate(((history["sweep"], "costate sweeps"), (clock, "seconds"))):
            axes[0, column].plot(x[kept], history["value"][kept])
            axes[0, column].set(ylabel="area under desired dev loss")
            plots.log_scale(axes[0, column])
            axes[1, column].plot(x[kept], history["acceleration_ratio"][kept], color=plots.COLOURS[1])
            axes[1, column].set(xlabel=label, ylabel="acceleration ratio (test)", ylim=(0, None))
            for axis in axes[:, column]:
                axis.set_xlim(0, None)


def spreads(path: Path, history: Arrays, steps: np.ndarray) -> None:
    """Spread of the contributions of the used examples, along the costate (kkt) and along the desired gradient (law).

    Above, along training for some outer iterations; below, over the whole of training, against the outer iteration.
    """
    names = (("kkt", "along the costate (kkt)"), ("law", "along the desired gradient (law)"))
    with plots.figure(path, 2, 2, width=3.2, height=2.2) as (figure, axes):
        for column, (name, title) in enumerate(names):
            used, _, scale = np.moveaxis(history[name], 1, 0)
            ratio = used / np.maximum(scale, np.finfo(scale.dtype).tiny)
            _by_iteration(figure, axes[0, column], steps, ratio, bar=column == 1)
            axes[0, column].set(title=title, xlabel="training step $t$", ylabel="spread of contributions at step $t$")
            axes[0, column].set_ylim(max(0.3 * np.quantile(ratio[-1], 0.05), 1e-6), 2)  # zero where one example is used
            totals = history[f"{name}_spread"][history["accepted"].astype(bool)]
            axes[1, column].plot(np.arange(1, len(totals) + 1), totals)
            axes[1, column].set(xlabel="outer iteration", ylabel=f"{name} spread")
            for axis in axes[:, column]:
                plots.log_scale(axis)


def weights(path: Path, history: Arrays, steps: np.ndarray) -> None:
    """Mean weight of an example of each group, relative to a uniform policy's, over training."""
    with plots.figure(path, columns=2, width=3.2, height=2.5) as (figure, (axes,)):
        shares = history["groups"]
        styles = zip(GROUPS, ("noisy label", "clean, learned", "clean, to be learned"), (1, 2, 0), strict=True)
        for group, (_, label, colour) in enumerate(styles):
            axes[0].plot(steps, shares[-1, :, group], label=label, color=plots.COLOURS[colour])
        axes[0].axhline(1, color="black", linewidth=0.6, linestyle="--")
        axes[0].set(title="optimised policy", ylim=(0, 1.45 * np.nanmax(shares[-1])))
        axes[0].legend(loc="upper left")
        _by_iteration(figure, axes[1], steps, shares[:, :, 0], bar=True)
        axes[1].axhline(1, color="black", linewidth=0.6, linestyle="--")
        axes[1].set(title="noisy examples, by outer iteration", ylim=(1e-4, 2), yscale="log")
        for axis in axes:
            axis.set(xlabel="training step $t$", ylabel="mean weight / uniform weight")


def scaling(path: Path, final: Arrays, laws: Mapping[str, ScalingLaw], first: int) -> None:
    """J(t) and the fitted L0 + (B / t)^beta, for the uniform and the optimised policy, from step `first` on."""
    with plots.figure(path, columns=2, width=3.2, height=2.5) as (_, (axes,)):
        for axis, split in zip(axes, ("dev", "test"), strict=True):
            for colour, policy in zip(plots.COLOURS, ("uniform", "optimised"), strict=False):
                name = f"{split}_{policy}"
                law, t = laws[name], np.arange(1, len(final[name]))
                axis.plot(t, final[name][1:], color=colour, alpha=0.45, linewidth=2.5)
                numbers = rf"$L_0$={round(law.floor, 4):.2g}, $B$={law.scale:.3g}, $\beta$={law.exponent:.2f}"
                text = rf"{policy}: {numbers}, $R^2$={law.r2:.2f}"
                axis.plot(t[first - 1 :], law(t[first - 1 :]), color=colour, linestyle="--", linewidth=1, label=text)
            axis.set(xlabel="training step $t$", ylabel=f"desired loss ({split} set)", xscale="log")
            plots.log_scale(axis)
            axis.legend(loc="lower left", bbox_to_anchor=(-0.05, 1), fontsize=7)


def seeds(path: Path, histories: Sequence[Arrays]) -> None:
    """AUC and AR against sweeps: mean over seeds, and the band between the extremes."""
    length = min(len(history["sweep"]) for history in histories)
    sweeps = histories[0]["sweep"][:length]
    with plots.figure(path, columns=2, width=3.0, height=2.3) as (_, (axes,)):
        for axis, name, label in zip(
            axes,
            ("value", "acceleration_ratio"),
            ("area under desired dev loss", "acceleration ratio (test)"),
            strict=True,
        ):
            runs = np.stack([_of_policy(history, name)[:length] for history in histories])
            plots.band(axis, sweeps, runs, f"{len(histories)} seeds")
            axis.set(xlabel="costate sweeps", ylabel=label)
        plots.log_scale(axes[0])
        axes[0].legend(loc="upper right")


def solvers(path: Path, histories: Mapping[str, Sequence[Arrays]]) -> None:
    """AUC and AR against sweeps and against seconds, a colour for each solver: means and extremes over its seeds."""
    with plots.figure(path, 2, 2, width=3.0, height=2.1) as (_, axes):
        for colour, (name, runs) in zip(plots.COLOURS, histories.items(), strict=False):
            for column, (x, label) in enumerate((("sweep", "costate sweeps"), ("seconds", "seconds"))):
                grid = np.linspace(max(run[x][0] for run in runs), min(run[x][-1] for run in runs), 300)
                for row, y in enumerate(("value", "acceleration_ratio")):
                    at = [np.clip(np.searchsorted(run[x], grid, "right") - 1, 0, None) for run in runs]
                    values = [_of_policy(run, y)[index] for run, index in zip(runs, at, strict=True)]
                    plots.band(axes[row, column], grid, np.stack(values), name, colour)
                axes[1, column].set_xlabel(label)
        for column in range(2):
            axes[0, column].set_ylabel("area under desired dev loss")
            axes[1, column].set_ylabel("acceleration ratio (test)")
            plots.log_scale(axes[0, column])
        axes[0, 0].legend(loc="upper right")


def _of_policy(history: Arrays, name: str) -> np.ndarray:
    """A number of each sweep's policy in force: a refused trial keeps the last accepted one."""
    last = np.maximum.accumulate(np.where(history["accepted"] > 0, np.arange(len(history["accepted"])), 0))
    return history[name][last]


def _by_iteration(figure: Figure, axis: Axes, x: np.ndarray, curves: np.ndarray, bar: bool) -> None:
    """Draws some of `curves` [iterations, points], coloured by iteration, with a colour bar if `bar`."""
    chosen = plots.thin(len(curves), 9)
    norm = LogNorm(1, max(len(curves), 2))
    mapping = ScalarMappable(norm, _MAP)
    for index in chosen:
        axis.plot(x, curves[index], color=mapping.to_rgba(index + 1), linewidth=0.9)
    if bar:
        figure.colorbar(mapping, ax=axis, label="outer iteration", pad=0.02)
