"""What choosing the data costs, compared with training on it: `python experiments/pds_overhead.py`.

Counted by the functions with which the stages count their own FLOPs, for every preset; nothing is run.
"""

from pathlib import Path

from pmpjax.pds.overhead import OVERHEAD_HEADER, overhead_row
from pmpjax.pds.presets import PRESETS
from pmpjax.runs import write_text

TEXT = """`python experiments/pds_overhead.py`

FLOPs of the stages that choose the data, as shares of those of pretraining one model on it. The corpus is as large as
makes each selected token seen once. Products with parameters alone are counted, 2 N D a forward pass; attention's own
and rematerialisation are left out. The scorer's look at every document is nearly all of it, and does not grow with the
model: a scorer of a tenth of the size would cost a tenth. The first three presets are for trying things out; in
`tiny` proxy and scorer are as large as the model.

{table}
"""


def line(cells: tuple[str, ...]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    rows = [line(overhead_row(name, config)) for name, config in PRESETS.items()]
    table = "\n".join([line(OVERHEAD_HEADER), "|---" * len(OVERHEAD_HEADER) + "|", *rows])
    write_text(Path(__file__).with_suffix(".md"), TEXT.format(table=table))
    print(table)
