"""A tiny decoder, ten minutes on two cores, against a 5-gram: `python experiments/train_installed_docs.py [OUT]`.

Both learn from the same tokens of installed-docs and are measured on the same held-out ones, scipy's reference
documentation, of which every copy was taken out of the source.
"""

import sys
from pathlib import Path

from pmpjax.evaluation import draw_training, ngram_bits_per_byte
from pmpjax.runs import write_json
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
    metrics = run(CONFIG, out)
    reference = {f"{order}-gram": ngram_bits_per_byte(out / "corpus", order) for order in (3, 5)}
    write_json(out / "against_ngrams.json", {"decoder": metrics["heldout_bits_per_byte"], **reference})
    draw_training(out, reference, Path(__file__).with_suffix(".png"))
    minutes = metrics["stage_seconds"]["train"] / 60
    print(f"bits a byte, held out: decoder {metrics['heldout_bits_per_byte']:.3f} after {minutes:.1f} minutes;")
    print("; ".join(f"{name} {value:.3f}" for name, value in reference.items()))
