"""Does momentum attention train better than plain attention? `python experiments/momentum_attention.py [OUT]`.

The tiny decoder on installed-docs, scipy's reference documentation held out, equal steps and data, 3 seeds, eta 0.1,
0.3 and 0.5. A run that was stopped goes on where it was.
"""

import dataclasses
import sys
from pathlib import Path

from pmpjax.evaluation.figures import markdown_table
from pmpjax.runs import write_json, write_text
from pmpjax.statistics import estimate, paired_difference
from pmpjax.train import OptimizerConfig
from pmpjax.train.corpus import CorpusConfig
from pmpjax.train.model import ModelConfig
from pmpjax.train.pretraining import TrainConfig, run

SEEDS, ETAS = (0, 1, 2), (0.0, 0.1, 0.3, 0.5)
CONFIG = TrainConfig(
    corpus=CorpusConfig(source=("installed-docs",), heldout="installed-docs:scipy", seed=0),
    model=ModelConfig("tiny"),
    length=256,
    batch=16,
    steps=1_200,
    optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=100, schedule="cosine"),
    evaluate_every=200,
    heldout_rows=0,
)
