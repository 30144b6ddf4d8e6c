"""The figures of the report, the loss curves apart."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def draw_scores(scores: np.ndarray, selected: np.ndarray, costate_norms: Sequence[float], path: Path) -> None:
    """Histogram of the documents' scores, those of the selection in front, and |d_t| along the proxy's run.

    d_t is what the gradients are multiplied with: the costate pulled back through the optimizer's update, so that the
    costates of Adam's moments are not in its norm.

    Args:
        scores: [D]. selected: indices of documents. costate_norms: [T].
    """
    from pmpjax.runs.plots import COLOURS, figure

    # A few documents far outside would squeeze the rest.
    low, high = np.quantile(scores, [0.005, 0.995])
    edges = np.linspace(low, high, 41) if high > low else np.linspace(low - 0.5, low + 0.5, 3)
    with figure(path, columns=2, width=3.6, height=2.4) as (_, axes):
        left, right = axes[0]
        clipped = np.clip(scores, edges[0], edges[-1])
        left.hist(clipped, edges, color="#b8b8b8", label="all documents")
        left.hist(clipped[selected], edges, color=COLOURS[0], alpha=0.8, label="selected")
        left.set_xlabel("score, standardised")
        left.set_ylabel("documents")
        left.legend(loc="upper right")
        right.plot(np.arange(len(costate_norms)), costate_norms)
        right.set_ylim(bottom=0)
        right.set_xlabel("step of the proxy's run")
        right.set_ylabel("norm of the parameters' costate")
