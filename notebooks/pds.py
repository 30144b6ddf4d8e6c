# %% [markdown]
# # Which text trains the better model? PDS in five minutes
#
# A small language model, the *proxy*, is trained for $T$ steps on a proxy set, instance $n$ with weight $\gamma_n$:
# $\theta_{t+1} = \theta_t - \eta \nabla \sum_n \gamma_n \ell_n(\theta_t)$. We want the weights that make the loss $J$
# on a *desired* domain fall fastest, that is, minimise $\sum_t J(\theta_t)$. Pontryagin's principle gives the score
# of every instance from one costate $\lambda_t$ that runs backward through that training: $s_n = \sum_t \eta \langle
# \lambda_{t+1}, \nabla \ell_n(\theta_t) \rangle$. A regressor learns $s$ and predicts it for every document.
#
# Below: a corpus from what is installed here (docstrings, code, licences, data), scipy's reference documentation as
# the desired domain, and each stage opened up. It is a quarter of the text and under half of the training of
# `pmpjax pds run`, which takes eight minutes on two cores; this takes four. On Colab choose a TPU or GPU, and take
# `config = PRESETS["colab-tpu"]` of `pmpjax.pds.presets`.

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
share_of_text = 0.25  # of the text that `pmpjax pds run` takes
proxy_steps, proxy_set = 100, 2560  # training steps of the proxy, and instances that the sweep scores
opened, opened_steps = 256, 32  # instances and steps T of the sweep that is opened up below
steps = 200  # of each of the two models that are trained at the end

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import pmpjax as pmp
from pmpjax.data import Budget, load_prepared
from pmpjax.models import Decoder
from pmpjax.pds import PDSConfig, run, run_stage
from pmpjax.pds.stages.prepare import PrepareConfig
from pmpjax.pds.stages.pretrain import PretrainConfig
from pmpjax.pds.stages.proxy import ProxyConfig, load_proxy
from pmpjax.pds.sweep.batches import draw_batches
from pmpjax.pds.sweep.problem import Proxy, SolveConfig, initial_state, proxy_problem
from pmpjax.pds.sweep.scores import score_instances
from pmpjax.runs import read_arrays

kinds = ("docstring", "code", "readme", "changelog", "licence", "data")
few = Budget(**{kind: int(share_of_text * getattr(Budget(), kind)) for kind in kinds})
config = PDSConfig(
    prepare=PrepareConfig(budget=few),
    proxy=ProxyConfig(steps=proxy_steps),
    solve=SolveConfig(instances=proxy_set),
    pretrain=PretrainConfig(steps=steps),
)
out = Path(tempfile.mkdtemp()) / "pds"  # runs go on where they stopped: name a folder of yours to keep it

run_stage(config, out, "prepare")
run_stage(config, out, "proxy")
data, proxy = load_prepared(out / "prepare"), load_proxy(config.proxy, out / "proxy")
decoder = Decoder(config.proxy_model.decoder(data.vocabulary))
print(f"{len(data.documents.ids):,} documents, {data.source.lengths.sum():,} tokens")

# %% [markdown]
# **One sweep.** A few instances are the proxy set here. Forward through $T$ steps, backward with the costate, and at
# each step the score of *every* instance: a forward-mode product, no gradient of its own. `scores` sums them over the
# steps.

# %%
long = np.flatnonzero(data.source.lengths >= config.solve.minimum_tokens)
rows = np.sort(np.random.default_rng(0).permutation(long)[:opened])
instances = data.source.take(rows)
solve = SolveConfig(inner_optimizer="sgd", steps=opened_steps, dev_batch=64, every=1)
batches = draw_batches(solve, data, instances, seed=0)
solved = score_instances(solve, Proxy(decoder, proxy), batches, instances)
print(f"area under the desired loss: {solved.value:.2f}; {solved.health.describe()}")

# %% [markdown]
# **Does the costate tell the truth?** It says how $J$ changes when weight moves from the worst tenth of the instances
# that the run met to the best tenth, before any such run was made. So make it: the measured change must be what was
# predicted.

# %%
met = np.unique(batches.steps.index)
exact = np.asarray(solved.batch_scores)[met]  # exact: -dJ/dgamma of the run's own batches
tenth = len(met) // 10
best, worst = met[np.argsort(exact)[-tenth:]], met[np.argsort(exact)[:tenth]]
moved = 0.1 * solved.weights[0]
weights = solved.weights.at[best].add(moved).at[worst].add(-moved)
predicted = float(jnp.sum(solved.batch_scores * (weights - solved.weights)))
problem = proxy_problem(solve, decoder, proxy.optimizer)
start = initial_state(solve.inner_optimizer, proxy)
again = jax.jit(lambda gamma: pmp.objective(problem, start, gamma, batches.steps))(weights)
measured = float(solved.value - again)
print(f"J falls by {predicted:.4f} by the costate, by {measured:.4f} when it is done")

# %% [markdown]
# **What is good text?** The ends of the ranking, in the proxy set.

# %%
order = np.argsort(-np.asarray(solved.scores))
for name, chosen in (("best", order[:5]), ("worst", order[::-1][:5])):
    texts = data.documents.texts(data.source_document[rows[chosen]])
    print(f"{name}:", *(" ".join(text.split())[:90] for text in texts), sep="\n  ")

# %% [markdown]
# **All stages.** The same with the whole proxy set; then the regressor, its prediction for every document, the 30% of
# the tokens that are kept (Gumbel top-$r$), and two models of equal budgets: one on the selection, one on random text.
# Stages that are there already are left as they are. `report/report.html` in the run's folder shows it all.

# %%
metrics = run(config, out)
print(metrics["verdict"])
print(f"rank correlation of predicted and measured scores, held-out documents: {metrics['scorer_spearman']:.2f}")


# %%
def draw_curves() -> Figure:
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(solved.health.parameter_norms)
    left.set(xlabel="step $t$ of the proxy's run", ylabel=r"$\|\lambda_{t+1}\|$", ylim=(0, None))
    for method, style in (("random", "k--"), ("pds", "-")):
        curve = read_arrays(out / "pretrain" / f"{method}-0")
        right.plot(curve["steps"], curve["test"], style, label=method)
    right.set(xlabel="step of pretraining", ylabel="loss on the held-out target")
    right.legend(loc="upper right")
    return figure


draw_curves()
