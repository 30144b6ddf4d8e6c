# %% [markdown]
# # The Learning Law in five minutes
#
# Training is a controlled dynamical system: $\theta_{t+1} = \theta_t - \eta \nabla \sum_n \gamma_{n,t}\,
# \ell_n(\theta_t)$, and the control $\gamma_{n,t}$ is the weight of example $n$ at step $t$. Which weights make a
# desired loss $J$ fall fastest, that is, minimise $\sum_t J(\theta_t)$? One reverse scan carries the costate
# $\lambda_t$ back through training and gives every $-\partial / \partial \gamma_{n,t} = \eta \langle
# \lambda_{t+1}, \nabla \ell_n(\theta_t) \rangle$: the contribution of example $n$ at step $t$.

# %%
import subprocess
import sys
from pathlib import Path

CLONE_FROM = ""  # what git can clone, where Colab has opened this notebook alone; empty: it lies in a clone

if "google.colab" in sys.modules:  # nothing is installed anywhere else
    if CLONE_FROM:
        subprocess.run(["git", "clone", "--depth", "1", CLONE_FROM, "pmpjax-clone"], check=True)
    here = Path("pmpjax-clone" if CLONE_FROM else ".").resolve()
    clone = next((folder for folder in (here, *here.parents) if (folder / "pmpjax" / "__init__.py").exists()), None)
    if clone is None:
        raise FileNotFoundError(f"no clone of pmpjax around {here}: set CLONE_FROM, or %cd into a clone")
    # Without the lock, which would take the place of the JAX that fits Colab's accelerator.
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", str(clone)], check=True)

# %% sizes
examples, steps = 512, 400  # of the training set, and of training; the paper has 4,096 and 2,000
sweeps = 60  # of the optimisation

# %%
import jax
import numpy as np
from matplotlib.figure import Figure

import pmpjax as pmp
from pmpjax.law import PerceptronProblem, acceleration_ratio, control_problem, draw, spread
from pmpjax.law.problems import mean_loss
from pmpjax.law.watch import watch

# 10% of the training labels are flipped; the desired sets are clean.
config = PerceptronProblem(train=examples, steps=steps)
drawn = draw(config, seed=0)
problem = control_problem(config, drawn)
x0 = problem.dynamics.init(drawn.params)
uniform = pmp.uniform(config.steps, config.train)

# %% [markdown]
# Optimise the policy: mirror descent on one simplex a step, its step found by backtracking. Each sweep also
# watches the loss on the desired dev and test sets, and how unequal the contributions of the used examples are.

# %%
history = []
solution = pmp.solve(
    problem,
    x0,
    uniform,
    drawn.train,
    pmp.MirrorDescent(),
    adjoint=pmp.Linearized(),
    sweeps=sweeps,
    observe=watch(drawn, stride=4),
    callback=lambda now: history.append(jax.device_get(now.seen)),
)
first, last = history[0], history[-1]
print(f"area under the desired dev loss: {first['dev'].sum():.0f} -> {last['dev'].sum():.0f} ({solution.message})")

# %% [markdown]
# **Acceleration.** How many steps does the optimised policy need to reach what the uniform policy reaches at the
# end, on the desired *test* set?

# %%
baseline = pmp.rollout(problem, x0, uniform, drawn.train, record=lambda x: mean_loss(x.params, drawn.test)).record
ratio = acceleration_ratio(last["test"], baseline)
print(f"acceleration ratio: {ratio:.1f}")

# %% [markdown]
# **The law.** On the optimal path all examples in use contribute equally: along the costate exactly (`kkt`),
# along the gradient of the desired loss in the limit of small steps (`law`). Both spreads fall.

# %%
for name in ("kkt", "law"):
    print(f"{name} spread: {spread(first[name]):.3f} -> {spread(last[name]):.3f}")


# %%
def draw_policy() -> Figure:
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(baseline, "k--", label="uniform policy")
    left.plot(last["test"], label="optimised policy")
    left.set(xlabel="training step $t$", ylabel="desired test loss", yscale="log")
    left.legend(loc="upper right")
    for column, label in enumerate(("noisy label", "clean, learned", "clean, to be learned")):
        right.plot(np.arange(0, config.steps, 4), last["groups"][:, column], label=label)
    right.set(xlabel="training step $t$", ylabel="mean weight, of uniform", ylim=(0, 1.5 * right.get_ylim()[1]))
    right.legend(loc="upper right")
    return figure


draw_policy()
