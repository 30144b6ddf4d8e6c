"""Does selecting anew every 300 of 600 steps pay? `python experiments/pds_receding.py [OUT]`.

The run without arguments, five seeds, and one more model a seed whose second half is on a selection made around its
own parameters at step 300.
"""

import sys
from pathlib import Path

from pmpjax.pds import PDSConfig, run
from pmpjax.pds.compare import comparison_table
from pmpjax.pds.stages.report import receding_verdict

CONFIG = PDSConfig(source=("installed-docs",), target="installed-docs:scipy", seed=0, seeds=5, receding_horizon=300)

if __name__ == "__main__":
    metrics = run(CONFIG, Path(sys.argv[1] if len(sys.argv) > 1 else "runs/pds-receding"))
    for row in comparison_table(metrics["comparison"]):
        print(*row, sep=" | ")
    print(receding_verdict(metrics["receding"]))
