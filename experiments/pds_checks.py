"""Scores of texts whose worth is known, for a finished run: `python experiments/pds_checks.py [RUN]`.

Documents of uniformly random tokens, one in a hundred tokens of the source from the beginning (all stages up to the
scores are made anew, in RUN-noise) and documents of them that only the scorer meets; and shuffled copies of the
target's test rows under the sweep. Ten minutes on two cores, more where the run has baselines.
"""

import sys
from pathlib import Path

from pmpjax.pds.checks import check_injected, check_scores

if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/pds-compare")
    found = check_scores(out, documents=300, pairs=256)
    print(f"{found['shuffled_below']:.1%} of {found['pairs']} shuffled copies below their originals")
    print(f"{found['random_in_lowest_third']:.1%} of {found['documents']} unseen random documents in the lowest third")
    for method, ranks in check_injected(out, out.with_name(f"{out.name}-noise"), share=0.01).items():
        print(
            f"{method}: {ranks.in_lowest_third:.1%} of {ranks.documents} injected ones in the lowest third, "
            f"the median above {ranks.median:.1%} of the source's documents, the highest above {ranks.highest:.1%}"
        )
