"""Documents divided without tearing a file, a module or a package."""

from collections.abc import Sequence

from pmpjax.data.documents import Document, SourceError, digest
from pmpjax.data.origins import parse_origin


def hold_out(documents: Sequence[Document], share: float, seed: int = 0) -> tuple[list[Document], list[Document]]:
    """(train, heldout): whole packages or files, in the order of a seeded hash, as many as fit into the share of bytes.

    Where none of them fits, documents take their place. Both sides have at least one document.

    >>> found = [Document(str(i), "text", f"{'ab'[i // 9]}:code:{i}", "") for i in range(10)]
    >>> train, heldout = hold_out(found, 0.2)
    >>> [document.origin for document in heldout]
    ['b:code:9']
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; it must leave something on both sides: between 0 and 1")
    if len(documents) < 2:
        raise SourceError(f"a split needs at least 2 documents; found {len(documents)}")
    sizes = [len(document.text.encode()) for document in documents]
    budget = share * sum(sizes)
    chosen: set[str] = set()
    for keys in ([_unit(document) for document in documents], [document.id for document in documents]):
        total: dict[str, int] = {}
        for key, size in zip(keys, sizes, strict=True):
            total[key] = total.get(key, 0) + size
        left = budget
        for key in sorted(total, key=lambda key: digest(str(seed), "heldout", key)):
            if total[key] <= left:
                left -= total[key]
                chosen.add(key)
        if chosen:
            break
    else:
        chosen = {min(total, key=lambda key: total[key])}
    heldout = [document for document, key in zip(documents, keys, strict=True) if key in chosen]
    return [document for document, key in zip(documents, keys, strict=True) if key not in chosen], heldout


def _unit(document: Document) -> str:
    """What must not be torn: the package of "package:kind:place", the group of anything else."""
    return parse_origin(document.origin).package or document.group


def split_target(documents: Sequence[Document], seed: int = 0) -> tuple[list[Document], list[Document]]:
    """(dev, test): halves of a target of which no group (module, file) is on both sides.

    A group's side is the parity of its rank in the order of a seeded hash. Where there is one group only, documents
    take the place of groups. Raises `SourceError` for fewer than 2 documents.
    """
    if len(documents) < 2:
        raise SourceError(f"a target needs at least 2 documents, one for dev and one for test; found {len(documents)}")
    torn = len({document.group for document in documents}) == 1
    keys = [document.id if torn else document.group for document in documents]
    ranked = sorted(set(keys), key=lambda key: digest(str(seed), "target", key))
    chosen = set(ranked[::2])
    dev = [document for document, key in zip(documents, keys, strict=True) if key not in chosen]
    return dev, [document for document, key in zip(documents, keys, strict=True) if key in chosen]
