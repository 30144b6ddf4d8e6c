"""Does selecting anew every 300 of 600 steps pay? `python experiments/pds_receding.py [OUT]`.

The run without arguments but with the sweep and the scorer of an earlier version (fewer instances and dev rows, more
epochs), three seeds, and one more model a seed whose second half is on a selection made around its own parameters at
step 300.
"""

import sys
from pathlib import Path

from pmpjax.pds import PDSConfig, run
from pmpjax.pds.fit import FitConfig
from pmpjax.pds.report import receding_verdict
from pmpjax.pds.sweep import SolveConfig
from pmpjax.train import OptimizerConfig

CONFIG = PDSConfig(
    source=("installed-docs",),
    target="installed-docs:scipy",
    seed=0,
    seeds=3,
    mpc=300,
    solve=SolveConfig(instances=2048, dev_batch=16, every=16),
    fit=FitConfig(epochs=3, optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=20)),
)

if __name__ == "__main__":
    metrics = run(CONFIG, Path(sys.argv[1] if len(sys.argv) > 1 else "runs/pds-receding"))
    print(metrics["final_target_loss"])
    print(receding_verdict(metrics["receding"]))
