"""Scores of texts whose worth is known, in a finished run: `python experiments/pds_checks.py [RUN]`.

Documents of uniformly random tokens under the scorer, and shuffled copies of the target's test rows under the sweep.
"""

import sys
from pathlib import Path

from pmpjax.pds.checks import check_scores

if __name__ == "__main__":
    found = check_scores(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/pds-compare"), documents=300, pairs=256)
    print(f"{found['random_in_lowest_third']:.1%} of {found['documents']} random documents in the lowest third")
    print(f"{found['shuffled_below']:.1%} of {found['pairs']} shuffled copies below their originals")
