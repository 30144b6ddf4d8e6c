"""Control gradients of every optax rule where derivatives are hard to come by, against central differences in float64.

python -m experiments.singular_points    # from the repository's root: ten minutes, writes singular_points.md
"""

from pathlib import Path

import jax
import numpy as np
from rich.progress import track

import pmpjax as pmp
from pmpjax import observables as obs
from pmpjax.runs.files import write_text
from tests.training.situations import RULES, SIGNS, SITUATIONS, differences_of, problem_of, run_of


def cell(rule: str, situation: str) -> str:
    """The largest relative error where two step sizes agree, and on how many weights more they do not."""
    run = run_of(problem_of((RULES | SIGNS)[rule]()), situation)
    sweep = jax.jit(
        lambda x, u, w: pmp.costate(run.problem, x, u, w, adjoint=pmp.StoreAll(), observe=obs.control_gradient)
    )(run.x0, run.weights, run.inputs)
    status = pmp.Status(int(sweep.health.status))
    if status != pmp.Status.OK:
        return status.name.lower().replace("_", " ")
    expected = differences_of(run)
    error = np.abs(sweep.seen - expected.value) / np.maximum(np.abs(expected.value), 1e-3 * expected.scale)
    text = f"{np.max(error, where=expected.agree, initial=0.0):.0e}"
    unseen = int(np.sum(~expected.agree))
    left_out = sum(int(count) for count in jax.tree.leaves(sweep.health.singular))
    return text + (f" ({unseen})" if unseen else "") + (f", left out {left_out}" if left_out else "")


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)  # small programs that run once
    rows = [f"| {rule} | " + " | ".join(cell(rule, s) for s in SITUATIONS) + " |" for rule in track([*RULES, *SIGNS])]
    text = f"""`python -m experiments.singular_points`, jax {jax.__version__}, float64. Six steps of four examples
(`tests/training/situations.py`). Largest relative error of dJ/du against central differences where two of five step
sizes agree to 1e-5; in brackets the number of weights on which none do. "left out": coordinates without a derivative
of the rule at which an example has a gradient, as `sweep.health` counts them.

| rule | {" | ".join(SITUATIONS)} |
|---|{"---|" * len(SITUATIONS)}
"""
    write_text(Path(__file__).with_suffix(".md"), text + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
