"""The Learning Law on the perceptron at the paper's scale (arXiv 2402.17759): three solvers on three seeds.

    python experiments/law_perceptron.py

runs (or goes on) in runs/law-perceptron-solvers and writes experiments/law_perceptron.md. The paper reports AR 5.50.
"""

from dataclasses import replace
from pathlib import Path

from pmpjax.law import LawConfig, PerceptronProblem, compare
from pmpjax.runs import write_text

MIRROR = LawConfig(
    preset="paper",
    problem=PerceptronProblem(
        dimension=128,
        train=4096,
        dev=512,
        test=512,
        steps=2000,
        learning_rate=0.1,
        noise=0.1,
    ),
    solver="mirror",
    sweeps=150,
    seeds=(0, 1, 2),
)
CONFIGS = {
    "mirror": MIRROR,
    "proximal": replace(MIRROR, solver="proximal"),
    "frank-wolfe": replace(MIRROR, solver="frank-wolfe"),
}

if __name__ == "__main__":
    table = compare(CONFIGS, Path("runs/law-perceptron-solvers"), command="python experiments/law_perceptron.py")
    write_text(Path(__file__).with_suffix(".md"), "# The perceptron's Learning Law, solver by solver\n\n" + table)
