"""A source with noise in it: how low do the sweep, the scorer and the baselines rank documents of random tokens?"""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from pmpjax.data import Prepared, Rows, document_rows
from pmpjax.pds.config import PDSConfig, deciding
from pmpjax.pds.pipeline import STAGES
from pmpjax.pds.stages.evaluate import METHOD
from pmpjax.pds.work import Work, load_data
from pmpjax.runs import stored_config
from pmpjax.runs.pipeline import Pipeline
from pmpjax.runs.seeds import stage_generator

COMMAND = "pds noise"


def with_noise(prepared: Prepared, share: float, seed: int) -> Prepared:
    """The same source and, behind its documents, others of uniformly random tokens.

    They are as long as documents drawn from the source without replacement, end as those do, and have `share` of the
    source's tokens, the last one rounded up. Their ids are noise-0, noise-1, ...; none has a text.

    Raises:
        ValueError: a share outside (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"the share of noise must lie in (0, 1), found {share}")
    table = prepared.documents
    generator = stage_generator(seed, "noise")
    sizes = generator.permutation(table.n_tokens)
    sizes = sizes[: int(np.searchsorted(sizes.cumsum(), share * table.n_tokens.sum())) + 1]
    rows, document = random_documents(prepared, sizes, generator)
    counts = np.bincount(document)
    names = np.array([f"noise-{index}" for index in range(len(sizes))], object)
    added = table._replace(
        ids=names,
        origins=names,
        n_bytes=np.zeros_like(sizes),
        n_tokens=sizes,
        first_row=len(prepared.source.tokens) + np.cumsum(counts) - counts,
        n_rows=counts,
    )
    columns = {
        name: np.concatenate([column, getattr(added, name)])
        for name, column in table._asdict().items()
        if name != "path"
    }
    return prepared._replace(
        documents=table._replace(**columns),
        source=jax.tree.map(lambda *leaves: np.concatenate(leaves), prepared.source, rows),
        source_document=np.concatenate([prepared.source_document, document + np.int32(len(table.ids))]),
    )


def random_documents(
    prepared: Prepared, sizes: Int[np.ndarray, " documents"], generator: np.random.Generator
) -> tuple[Rows, np.ndarray]:
    """Documents of so many tokens each, the last of them end of document, the others uniform; see `document_rows`."""
    end, length = prepared.end_of_document, prepared.source.tokens.shape[1]
    ids = np.delete(np.arange(prepared.vocabulary), end)
    return document_rows([np.append(generator.choice(ids, size - 1), end) for size in sizes], length, end)


class NoiseRanks(NamedTuple):
    """Where documents of noise lie among those of the source.

    documents: of noise. in_lowest_third: share of them with a score below the lowest third of the source's. median,
    highest: of the share of the source's documents that a document of noise scores above.
    """

    documents: int
    in_lowest_third: float
    median: float
    highest: float


def check_injected(out: Path, folder: Path, *, share: float = 0.01) -> dict[str, NoiseRanks]:
    """Where each method of the run `out` ranks noise that lies in the source from the beginning.

    The stages from proxy to score, and the run's baselines, are built again in the run directory `folder`, from the
    source of `out` and noise of `share` of its tokens (`with_noise`); a killed check goes on where it stopped.

    Returns:
        the ranks of noise by method, PDS first.

    Raises:
        ValueError: where `out` has no stage prepare.
    """
    config = stored_config(out, PDSConfig)
    if config is None or not (out / "prepare").exists():
        raise ValueError(f"{out} has no stage prepare; run `pmpjax pds prepare --out {out}` first")
    clean = load_data(out / "prepare")
    noisy = with_noise(clean, share, config.seed)
    pipeline = Pipeline(
        COMMAND,
        {name: STAGES[name] for name in ("proxy", "solve", "fit", "score", "baselines")},
        functools.partial(Work, source=noisy),
        lambda config: {**deciding(config), "share": share},
    )
    with pipeline.open(config, folder, given={"prepare": out / "prepare"}) as running:
        folders = running.build_all()
    scores = {METHOD: folders["score"] / "scores.parquet"}
    scores |= {name: folders["baselines"] / f"{name}.parquet" for name in config.baselines}
    return {name: noise_ranks(_column(path), len(clean.documents.ids)) for name, path in scores.items()}


def noise_ranks(scores: Float[np.ndarray, " documents"], clean: int) -> NoiseRanks:
    """Of scores of `clean` documents of the source, and then of noise.

    >>> noise_ranks(np.array([1.0, 2.0, 3.0, 4.0, 0.0, 2.5]), clean=4)
    NoiseRanks(documents=2, in_lowest_third=0.5, median=0.25, highest=0.5)
    """
    source, noise = np.sort(scores[:clean]), scores[clean:]
    above = np.searchsorted(source, noise) / clean
    lowest = float(np.mean(noise < np.quantile(source, 1 / 3)))
    return NoiseRanks(len(noise), lowest, float(np.median(above)), float(above.max()))


def _column(path: Path) -> np.ndarray:
    return np.asarray(pq.read_table(path, columns=["score"])["score"], np.float64)
