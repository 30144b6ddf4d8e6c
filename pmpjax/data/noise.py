"""Documents of random tokens behind those of a corpus: what a scorer must rank low."""

import jax
import numpy as np
from jaxtyping import Int

from pmpjax.data.prepared import Prepared
from pmpjax.data.rows import Rows, document_rows
from pmpjax.runs.seeds import stage_generator


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
