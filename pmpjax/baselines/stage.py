"""The stage `baselines`: other methods' scores of every document, with the proxy and the dev split that PDS uses."""

import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pmpjax.baselines.registry import REGISTRY, BaselineName, Setting
from pmpjax.data import Prepared
from pmpjax.runs import atomic, write_json
from pmpjax.runs.progress import Bar
from pmpjax.runs.seeds import stage_key
from pmpjax.train.model import ModelConfig
from pmpjax.train.warm_start import WarmStart


def build_baselines(
    baselines: Sequence[BaselineName],
    model: ModelConfig,
    prepared: Prepared,
    proxy: WarmStart,
    seed: int,
    folder: Path,
    bar: Bar,
) -> None:
    """Scores the whole source once by each of `baselines`; every method's key comes from the seed and its name.

    Files:
        METHOD.parquet: id, score; one line a document, in the corpus's order.
        baselines.json: `methods` {method: seconds with compilation, FLOPs, warnings}, and the sum of the FLOPs.
    A killed run goes on with the first method whose Parquet is not there.
    """
    path, setting = folder / "baselines.json", Setting(model, prepared, proxy)
    methods: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["methods"] if path.exists() else {}
    for name in baselines:
        scores_path = folder / f"{name}.parquet"
        if not scores_path.exists():
            scorer = REGISTRY[name].scorer(setting)
            begin = time.perf_counter()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                # The stage's first name: another one would be another key, and other scores.
                scores = np.asarray(scorer(prepared, stage_key(seed, "rivals", name)), np.float64)
            methods[name] = {
                "seconds": time.perf_counter() - begin,
                "flops": float(REGISTRY[name].flops(setting)),
                "warnings": [str(one.message) for one in caught],
            }
            write_json(path, {"methods": methods, "flops": sum(one["flops"] for one in methods.values())})
            with atomic(scores_path) as temporary:  # last: its presence means that the method is done
                pq.write_table(pa.table({"id": list(prepared.documents.ids), "score": scores}), temporary)
        bar.update(1, method=name)
