"""All methods of selection on the default corpus, ten seeds: `python experiments/pds_compare.py [OUT]`.

Source installed-docs, target scipy's reference documentation; every setting is a default of `PDSConfig`. What
`pmpjax pds compare --seeds 10` does; about two hours on two cores.
"""

import sys
from pathlib import Path

from pmpjax.baselines.registry import BASELINES
from pmpjax.pds import PDSConfig, run
from pmpjax.pds.compare import comparison_table

CONFIG = PDSConfig(source=("installed-docs",), target="installed-docs:scipy", seed=0, seeds=10, baselines=BASELINES)

if __name__ == "__main__":
    metrics = run(CONFIG, Path(sys.argv[1] if len(sys.argv) > 1 else "runs/pds-compare"))
    for row in comparison_table(metrics["comparison"]):
        print(*row, sep=" | ")
    print(metrics["verdict"])
