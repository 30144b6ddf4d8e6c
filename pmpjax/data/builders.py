"""Any source as a data set of TensorFlow Datasets in ArrayRecord files, written without TensorFlow."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from pmpjax.data.documents import Document, SourceError
from pmpjax.data.sources import INSTALLED, read_sources
from pmpjax.data.sources.installed import Budget
from pmpjax.data.splits import hold_out

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
