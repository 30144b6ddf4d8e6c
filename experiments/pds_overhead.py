"""What choosing the data costs, compared with training on it: `python experiments/pds_overhead.py`.

Counted by the functions with which the stages count their own FLOPs, for every preset; nothing is run.
"""

from pathlib import Path

from pmpjax.pds import PDSConfig
from pmpjax.pds.compare import PDS_STAGES
from pmpjax.pds.overhead import corpus_tokens, overhead
from pmpjax.pds.presets import PRESETS
from pmpjax.runs import write_text

TEXT = """# FLOPs of the selection and of pretraining

`python experiments/pds_overhead.py`

FLOPs of the stages that choose the data, as shares of those of pretraining one model on it. The corpus is as large as
makes each selected token seen once. Products with parameters alone are counted, 2 N D a forward pass; attention's own
and rematerialisation are left out. Scoring every document is nearly all of it, and does not grow with the
model: a regressor of a tenth of the size would cost a tenth. The first three presets are for trying things out; in
`tiny` proxy and regressor are as large as the model.

{table}
"""


HEADER = ("preset", "corpus", "seen", "pretrain FLOPs", *PDS_STAGES, "selection")


def row(name: str, config: PDSConfig) -> tuple[str, ...]:
    """Texts under `HEADER`: tokens scored and trained on, and each stage's share of pretraining's FLOPs."""
    shares = overhead(config)
    seen = config.pretrain.steps * config.pretrain.batch * config.prepare.length
    counts = (f"{count / 1e9:,.3g} B tokens" for count in (corpus_tokens(config), seen))
    columns = (f"{shares[stage].share:.1%}" for stage in (*PDS_STAGES, "selection"))
    return (name, *counts, f"{shares['pretrain'].flops:.2e}", *columns)


def line(cells: tuple[str, ...]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    rows = [line(row(name, config)) for name, config in PRESETS.items()]
    table = "\n".join([line(HEADER), "|---" * len(HEADER) + "|", *rows])
    write_text(Path(__file__).with_suffix(".md"), TEXT.format(table=table))
    print(table)
