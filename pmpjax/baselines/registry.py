"""The stage `rivals`: other methods' word on every document, from the proxy that PDS uses and the same dev split."""

import difflib
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pmpjax.baselines import (
    Scorer,
    dsir,
    gradient_flops,
    gradient_similarity,
    influence,
    influence_flops,
    rho_flops,
    rho_loss,
)
from pmpjax.data import Prepared
from pmpjax.models import Decoder
from pmpjax.runs import atomic, write_json
from pmpjax.runs.progress import Bar
from pmpjax.runs.seeds import stage_key
from pmpjax.train.model import ModelConfig, forward_flops
from pmpjax.train.warm_start import WarmStart

Rival = Literal["dsir", "rho-loss", "influence", "gradient-similarity"]
RIVALS: tuple[Rival, ...] = get_args(Rival)

TUNING_STEPS, TUNING_BATCH = 100, 16
HESSIAN_ROWS, ITERATIONS = 256, 20


class Method(NamedTuple):
    """scorer: the method on a proxy. flops: of scoring the whole source once, the proxy's training not among them."""

    scorer: Scorer
    flops: float


def check_rivals(names: Sequence[str]) -> None:
    """ValueError for a name that is none of `RIVALS`, with the near ones, or that is there twice.

    >>> check_rivals(["rho"])
    Traceback (most recent call last):
    ValueError: rivals names 'rho'; did you mean rho-loss? (dsir, rho-loss, influence, gradient-similarity)
    """
    for name in names:
        if name not in RIVALS:
            near = difflib.get_close_matches(name, RIVALS, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else "; expected one of"
            raise ValueError(f"rivals names {name!r}{hint} ({', '.join(RIVALS)})")
    if len(set(names)) < len(names):
        raise ValueError(f"rivals names one twice: {', '.join(names)}; name each once")


def rival_method(name: Rival, model: ModelConfig, prepared: Prepared, proxy: WarmStart) -> Method:
    """A method by its name, with the settings of its own function in `pmpjax.baselines`.

    DSIR adds the log weights of all n-grams, as its paper does, and multiplies no matrices: its FLOPs are 0. Gradient
    similarity has the moments that the proxy's training ended with. Influence is counted with all its iterations, of
    which it may need fewer.
    """
    if name == "dsir":
        return Method(dsir(), 0.0)
    config = model.decoder(prepared.vocabulary)
    decoder, rows, dev_rows = Decoder(config), len(prepared.source.tokens), len(prepared.dev.tokens)
    length = prepared.source.tokens.shape[1] - 1

    def forward(count: int) -> float:
        return forward_flops(config, count * length)

    if name == "rho-loss":
        scorer = rho_loss(decoder, proxy.params, steps=TUNING_STEPS, batch=TUNING_BATCH)
        return Method(scorer, float(rho_flops(forward, rows=rows, steps=TUNING_STEPS, batch=TUNING_BATCH)))
    if name == "influence":
        scorer = influence(decoder, proxy.params, iterations=ITERATIONS, hessian_rows=HESSIAN_ROWS)
        drawn = min(HESSIAN_ROWS, rows)
        flops = influence_flops(forward, rows=rows, dev_rows=dev_rows, hessian_rows=drawn, iterations=ITERATIONS)
        return Method(scorer, float(flops))
    scorer = gradient_similarity(
        decoder,
        proxy.params,
        opt_state=proxy.opt_state,
        first_moment=proxy.optimizer.first_moment,
        second_moment=proxy.optimizer.second_moment,
    )
    return Method(scorer, float(gradient_flops(forward, rows=rows, dev_rows=dev_rows)))


def build_rivals(
    rivals: Sequence[Rival],
    model: ModelConfig,
    prepared: Prepared,
    proxy: WarmStart,
    seed: int,
    folder: Path,
    bar: Bar,
) -> None:
    """Scores the whole source once by each of `rivals`; every method's key comes from the seed and its name.

    Files:
        METHOD.parquet: id, score; one line a document, in the corpus's order.
        baselines.json: `methods` {method: seconds with compilation, FLOPs, warnings}, and the sum of the FLOPs.
    A killed run goes on with the first method whose Parquet is not there.
    """
    path = folder / "baselines.json"
    methods: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["methods"] if path.exists() else {}
    for name in rivals:
        scores_path = folder / f"{name}.parquet"
        if not scores_path.exists():
            scorer, flops = rival_method(name, model, prepared, proxy)
            begin = time.perf_counter()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                scores = np.asarray(scorer(prepared, stage_key(seed, "rivals", name)), np.float64)
            methods[name] = {
                "seconds": time.perf_counter() - begin,
                "flops": flops,
                "warnings": [str(one.message) for one in caught],
            }
            write_json(path, {"methods": methods, "flops": sum(one["flops"] for one in methods.values())})
            with atomic(scores_path) as temporary:  # last: its presence means that the method is done
                pq.write_table(pa.table({"id": list(prepared.documents.ids), "score": scores}), temporary)
        bar.update(1, method=name)
