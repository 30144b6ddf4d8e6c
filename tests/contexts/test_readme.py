"""The page's example runs as it stands."""

import re
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parents[2] / "pmpjax" / "contexts" / "README.md"


def test_the_example_runs(capsys):
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)
    names = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), names)
    assert capsys.readouterr().out.endswith("(2, 4)\n")
    assert np.isfinite(names["found"].total).all() and names["found"].prompts.sum() == 2 * 4 * 3
