"""A tiny decoder, ten minutes on two cores, against a 5-gram: `python experiments/train_installed_docs.py [OUT]`.

Both learn from the same tokens of installed-docs and are measured on the same held-out ones, scipy's reference
documentation, of which every copy was taken out of the source.
"""

import sys
from pathlib import Path

from pmpjax.evaluation import against_ngrams, draw_training
from pmpjax.runs import write_text
from pmpjax.train import OptimizerConfig
from pmpjax.train.corpus import CorpusConfig
from pmpjax.train.model import ModelConfig
from pmpjax.train.pretraining import TrainConfig, run

CONFIG = TrainConfig(
    corpus=CorpusConfig(source=("installed-docs",), heldout="installed-docs:scipy", seed=0),
    model=ModelConfig("tiny"),
    length=256,
    batch=16,
    steps=2_400,
    optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=100, schedule="cosine"),
    evaluate_every=200,
    heldout_rows=0,
    save_every=400,
    seed=0,
    sample="def ",
)

if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/train-installed-docs")
    minutes = run(CONFIG, out)["stage_seconds"]["train"] / 60
    found = against_ngrams(out, order=5, length=CONFIG.length)
    draw_training(out, found, 5, Path(__file__).with_suffix(".png"))
    text = (
        f"Bits a byte, held out: decoder {found.decoder:.3f} after {minutes:.1f} minutes, Kneser-Ney 5-gram "
        f"{found.ngram:.3f}; difference {found.difference:.3f}, 95% interval {found.interval[0]:.3f} to "
        f"{found.interval[1]:.3f} (documents resampled); lower on {found.documents_better:.0%} of the documents.\n"
    )
    write_text(Path(__file__).with_suffix(".md"), f"`python experiments/train_installed_docs.py`\n\n{text}")
    print(text, end="")
