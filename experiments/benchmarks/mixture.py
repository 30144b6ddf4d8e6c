"""Time and memory of 100 starts of a Gaussian mixture compared with scikit-learn's, on the same scores.

    python experiments/benchmarks/mixture.py

The starts are taken in rounds in which the arms alternate, so that other work on the machine meets all alike.
scikit-learn's `n_init=100` is the same loop over starts, without the rounds. It runs with its own threads and with one:
on a busy machine its threads wait for each other, and a ratio to them alone says more of the load than of the code.
Each arm has a process of its own, so that the peak of memory is its own. All work in double precision, from k-means,
with full covariances, 100 steps at most, tolerance 1e-3 and 1e-6 on the diagonal. Ours is timed with its compilation.
"""

import contextlib
import dataclasses
import multiprocessing
import pathlib
import resource
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from pmpjax.prototypes.mixture import fit_from_many_starts
from pmpjax.runs.files import write_json, write_text
from pmpjax.runs.precision import double_precision


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    texts: int = 10_000
    classes: int = 14
    starts: int = 100
    rounds: int = 10
    separation: float = 1.5
    out: pathlib.Path = pathlib.Path(__file__).parent


def drawn(options: Options) -> np.ndarray:
    """Log-probabilities of label words: clusters around random means, normalised over the words."""
    draw = np.random.default_rng(0)
    means = options.separation * draw.normal(size=(options.classes, options.classes))
    x = means[draw.integers(0, options.classes, options.texts)] + draw.normal(size=(options.texts, options.classes))
    return x - np.log(np.sum(np.exp(x), axis=1, keepdims=True))


def ours(x: np.ndarray, options: Options, seed: int) -> dict[str, float]:
    with double_precision():
        fits = fit_from_many_starts(
            jax.random.key(seed), jnp.asarray(x), options.classes, options.starts // options.rounds
        )
        path, steps = np.asarray(fits.path), np.asarray(fits.steps)
    return {"best": float(np.max(path[np.arange(len(path)), steps - 1])), "steps": float(np.mean(steps))}


def theirs(x: np.ndarray, options: Options, seed: int) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture = GaussianMixture(options.classes, n_init=options.starts // options.rounds, random_state=seed).fit(x)
    return {"best": float(mixture.lower_bound_)}


def theirs_on_one_thread(x: np.ndarray, options: Options, seed: int) -> dict[str, float]:
    with threadpool_limits(1):
        return theirs(x, options, seed)


ARMS = {"pmpjax": ours, "scikit-learn": theirs, "scikit-learn, one thread": theirs_on_one_thread}


def one_round(name: str, options: Options, seed: int) -> dict[str, float]:
    x = drawn(options)
    begin = time.perf_counter()
    found = ARMS[name](x, options, seed)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, **found}


def measure(options: Options) -> dict[str, list[dict[str, float]]]:
    spawning = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        processes = {name: stack.enter_context(spawning.Pool(1)) for name in ARMS}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
        for seed in range(options.rounds):
            for name, process in processes.items():
                found[name].append(process.apply(one_round, (name, options, seed)))
    return found


def main(options: Options) -> None:
    found = measure(options)
    own = [r["seconds"] for r in found["pmpjax"]]
    lines = [
        "| arm | seconds of all starts | over ours | in single rounds | peak MB of the process | best log-likelihood |",
        "|---|---|---|---|---|---|",
    ]
    for name, rounds in found.items():
        seconds = [r["seconds"] for r in rounds]
        ratios = [theirs / ours for theirs, ours in zip(seconds, own, strict=True)]
        peak, best = max(r["peak_mb"] for r in rounds), max(r["best"] for r in rounds)
        lines.append(
            f"| {name} | {sum(seconds):.1f} | {sum(seconds) / sum(own):.1f} | {min(ratios):.1f} to {max(ratios):.1f} | "
            f"{peak:,.0f} | {best:.4f} |"
        )
    text = "\n".join(
        [
            "# A Gaussian mixture from many starts compared with scikit-learn's",
            "",
            f"`python experiments/benchmarks/mixture.py`: {options.starts} starts on {options.texts:,} x "
            f"{options.classes} scores (separation {options.separation:g}) in {options.rounds} alternating rounds, "
            "float64, full covariances, two shared CPU cores; the first round of ours compiles.",
            "",
            *lines,
            "",
        ]
    )
    write_json(options.out / "mixture.json", found)
    write_text(options.out / "mixture.md", text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Options))
