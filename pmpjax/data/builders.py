"""Any source as a data set of TensorFlow Datasets in ArrayRecord files, written without TensorFlow."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from pmpjax.data.documents import Document, SourceError, digest
from pmpjax.data.installed import KINDS, Budget
from pmpjax.data.sources import INSTALLED, read_sources

HELDOUT_SHARE = 0.05


@dataclasses.dataclass
class TextCorpusConfig(tfds.core.BuilderConfig):
    """What a `TextCorpus` is made of.

    Attributes:
        source: names of sources, as `pmpjax.data.read_source` takes them.
        share: of the text, in bytes, that goes at most to the split `heldout`.
        budget: how much of installed-docs is taken, in bytes by kind.
        seed: of the sample of installed-docs, of generated stories, and of the split.
    """

    source: tuple[str, ...] = (INSTALLED,)
    share: float = HELDOUT_SHARE
    budget: Budget = dataclasses.field(default_factory=Budget)
    seed: int = 0


class TextCorpus(tfds.core.GeneratorBasedBuilder):
    """Documents with the features text, id, origin and group in the splits `train` and `heldout`; see `write_tfds`."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [TextCorpusConfig(name="default", description="The text that this installation already has.")]  # noqa: RUF012
    # Nothing is downloaded; to look for checksums beside this module, tfds needs a package that it does not ask for.
    url_infos: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleVariableOverride]

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        features = tfds.features.FeaturesDict(dict.fromkeys(Document._fields, text))
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> Mapping[str, Any]:
        config = self.builder_config
        if not isinstance(config, TextCorpusConfig):
            raise SourceError(f"the config is a {type(config).__name__}; give a TextCorpusConfig")
        corpus = read_sources(config.source, config.budget, seed=config.seed)
        train, heldout = hold_out(corpus.documents, config.share, config.seed)
        return {"train": self._generate_examples(train), "heldout": self._generate_examples(heldout)}

    def _generate_examples(self, documents: Sequence[Document]) -> Iterator[tuple[str, dict[str, Any]]]:
        for document in documents:
            yield document.id, document._asdict()


def write_tfds(
    source: str | Sequence[str],
    data_dir: Path | str,
    *,
    name: str | None = None,
    share: float = HELDOUT_SHARE,
    budget: Budget | None = None,
    seed: int = 0,
) -> Path:
    """Writes data_dir/text_corpus/NAME/1.0.0 and gives back this folder: "tfds:FOLDER[@heldout]" is a source, too.

    The split `heldout` takes whole packages of installed-docs, and whole files of other sources; see `hold_out`.
    `tfds.data_source("text_corpus/NAME", data_dir=data_dir)` reads the data set, too, where this module is imported.

    Args:
        source: one or several, as `pmpjax.data.read_source` takes them.
        name: of the data set; made from the source's when None.
        share, budget, seed: see `TextCorpusConfig`.

    Raises:
        SourceError: the source cannot be read, has no good row, or only one document; the name cannot be one; or the
            folder is there already.
    """
    names = (source,) if isinstance(source, str) else tuple(source)
    label = re.sub(r"[^A-Za-z0-9_.-]+", "-", name or "+".join(names)).strip("-.")
    if label in ("", "default"):
        raise SourceError(f"{name!r} is no name for a data set, or taken; give another")
    config = TextCorpusConfig(
        name=label,
        description=f"Documents of {label}.",
        source=names,
        share=share,
        budget=budget or Budget(),
        seed=seed,
    )
    builder = TextCorpus(config=config, data_dir=str(data_dir), file_format="array_record")
    folder = Path(str(builder.data_dir))
    if folder.exists():
        raise SourceError(f"{folder} is there already, perhaps of another source; delete it or give another name")
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints where it writes, and that it has written
        builder.download_and_prepare()
    return folder


def hold_out(
    documents: Sequence[Document], share: float = HELDOUT_SHARE, seed: int = 0
) -> tuple[list[Document], list[Document]]:
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
    package, *rest = document.origin.split(":")
    return package if len(rest) == 2 and rest[0] in KINDS else document.group
