"""The PDS run without arguments, on three seeds: `python experiments/pds_installed_docs.py [OUT]`.

Source installed-docs, target scipy's reference documentation; every setting is a default of `PDSConfig`.
"""

import sys
from pathlib import Path

from pmpjax.pds import PDSConfig, run

CONFIG = PDSConfig(source=("installed-docs",), target="installed-docs:scipy", seed=0, seeds=3)

if __name__ == "__main__":
    print(run(CONFIG, Path(sys.argv[1] if len(sys.argv) > 1 else "runs/pds-installed-docs"))["verdict"])
