"""Makes the extract of WordNet that the package carries, from Debian's wordnet-base.

apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb unpacked
python experiments/wordnet_extract.py unpacked/usr/share/wordnet
"""

import sys
from pathlib import Path

from pmpjax.evaluation.tasks.wordnet import EXTRACT, write_extract

if __name__ == "__main__":
    task = write_extract(Path(sys.argv[1]))
    print(f"{EXTRACT.name}: {len(task.texts)} glosses, {EXTRACT.stat().st_size} bytes, {task.counts}")
