"""`pmpjax prototypes fit`: a task or a table, any encoder, a fitted classifier and its report."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from pmpjax.evaluation.tasks import TASKS, Task, load_task
from pmpjax.evaluation.tasks.task import summary
from pmpjax.prototypes.fine_tuning.estimator import PrototypeClassifier
from pmpjax.prototypes.fine_tuning.fit import Policy
from pmpjax.prototypes.fine_tuning.report import write_report
from pmpjax.prototypes.fine_tuning.storage import load_classifier, save_classifier
from pmpjax.prototypes.fine_tuning.texts import Pooling, TextEncoder, embed_texts, load_text_encoder
from pmpjax.prototypes.fine_tuning.trained import Training, train_encoder
from pmpjax.runs import RunError
from pmpjax.runs.directory import Run, fingerprint, open_run
from pmpjax.runs.files import read_arrays, read_json, write_arrays, write_json
from pmpjax.runs.progress import Bar
from pmpjax.train.checkpoints import load_params, save_params

Progress = Callable[..., AbstractContextManager[Bar]]


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """What is fitted, and on which states.

    Attributes:
        data: a table (.csv, .tsv, .jsonl, .parquet), or a task: wordnet, debian-sections, installed-docs, digits, or
            wordnet:food,person for some classes.
        text: column of a table with the texts.
        label: column of a table with the classes.
        encoder: minilm, smollm2, a Hugging Face folder of BERT or of a decoder, a .gguf file, or a run of pmpjax train.
        pooling: of a decoder: the mean of its states, or the last token's.
        epochs: 0 leaves the encoder as it is; else it is trained end to end, for so many.
        learning_rate: of the encoder's AdamW.
        batch: texts in a step of that.
        class_weight: balanced weighs classes as if all had equally many examples; the encoder's training does not.
        per_class: prototypes that a class has at most.
        concentration: from 0 (one prototype a class) to 1; without it cross-validation decides.
        seed: of the splits, the folds and the order of texts.
    """

    data: tyro.conf.Positional[str]
    text: str = "text"
    label: str = "label"
    encoder: str = "minilm"
    pooling: Pooling = "mean"
    epochs: int = 0
    learning_rate: float = 3e-5
    batch: int = 16
    class_weight: Literal["none", "balanced"] = "none"
    per_class: int = 8
    concentration: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch < 1 or self.learning_rate <= 0 or self.per_class < 1 or self.seed < 0:
            raise ValueError(
                f"epochs {self.epochs} and seed {self.seed} must not be negative, batch {self.batch} and per_class "
                f"{self.per_class} at least 1, learning_rate {self.learning_rate} above 0"
            )
        if self.concentration is not None and not 0 <= self.concentration <= 1:
            raise ValueError(f"concentration is {self.concentration}, expected a number from 0 to 1, or none")


def run_fit(config: FitConfig, out: Path, progress: Progress) -> dict[str, Any]:
    """Stages encoder (where it is trained), states, fit, report in the run directory; returns metrics.json.

    Fitted are the splits "train" and "dev" of a frozen encoder, of a trained one "train" alone: "dev" then gives the
    temperature. Figures are of "test".

    Raises ValueError, SourceError: what `load_task`, `load_text_encoder` and `PrototypeClassifier` refuse.
    """
    task = load_task(config.data, seed=config.seed, text=config.text, label=config.label)
    if config.epochs and task.features is not None:
        raise ValueError(f"the task {task.name!r} has numbers and no encoder to train; leave --epochs at 0")
    inputs = {} if config.data.partition(":")[0] in TASKS else {"data": Path(config.data)}
    if Path(config.encoder).exists():
        inputs["encoder"] = Path(config.encoder)
    with open_run(out, "prototypes fit", config) as run:
        stage = _Stage(run, config, inputs, task, progress)
        stage.states()
        run.stage("fit", stage.build_fit, config=dataclasses.asdict(config), inputs={"states": out / "states"})
        return read_json(out / "fit" / "metrics.json")


@dataclasses.dataclass(frozen=True)
class _Stage:
    run: Run
    config: FitConfig
    inputs: dict[str, Path]
    task: Task
    progress: Progress

    def states(self) -> None:
        own = {"task": summary(self.task), **dataclasses.asdict(self.config)}
        if self.config.epochs:
            self.run.stage("encoder", self.build_encoder, config=own, inputs=self.inputs)
        self.run.stage("states", self.build_states, config=own, inputs=self.inputs)

    def encoder(self) -> TextEncoder:
        return load_text_encoder(self.config.encoder, pooling=self.config.pooling)

    def build_encoder(self, folder: Path) -> None:
        index = self.task.splits["train"]
        training = Training(
            epochs=self.config.epochs,
            batch=self.config.batch,
            learning_rate=self.config.learning_rate,
            seed=self.config.seed,
        )
        steps = self.config.epochs * -(-len(index) // self.config.batch)
        with self.progress("encoder", steps) as bar:
            texts, labels = [self.task.texts[number] for number in index], self.task.labels[index]
            done = train_encoder(self.encoder(), texts, labels, training, policy=self.policy, bar=bar)
        save_params(folder / "params.npz", done.encoder.params)
        write_json(folder / "losses.json", done.losses)

    def build_states(self, folder: Path) -> None:
        if self.task.features is not None:
            vectors = np.asarray(self.task.features, np.float32)
        else:
            with self.progress("states", len(self.task.texts)) as bar:
                encoder = trained_encoder(self.encoder(), self.run.directory)
                vectors = embed_texts(encoder, self.task.texts, bar=bar)
        write_arrays(folder / "states.npz", {"vectors": vectors})
        path = Path(self.config.encoder)
        write_json(folder / "encoder.json", {"fingerprint": fingerprint(path) if path.exists() else None})

    @property
    def policy(self) -> Policy:
        return Policy(per_class=self.config.per_class)

    def build_fit(self, folder: Path) -> None:
        vectors, task, config = (
            read_arrays(self.run.directory / "states" / "states.npz")["vectors"],
            self.task,
            self.config,
        )
        names, splits = np.asarray(task.classes), task.splits
        fitted = splits["train"] if config.epochs else np.concatenate([splits["train"], splits["dev"]])
        model = PrototypeClassifier(
            concentration=config.concentration,
            class_weight=None if config.class_weight == "none" else config.class_weight,
            classes=names,
            policy=self.policy,
            seed=config.seed,
        )
        with self.progress("fit, %", 100) as bar:
            model.fit(vectors[fitted], names[task.labels[fitted]], bar=bar)
        if config.epochs and len(splits["dev"]):
            model.calibrate(vectors[splits["dev"]], names[task.labels[splits["dev"]]])
        save_classifier(folder, model, [task.texts[number] for number in fitted])
        test = splits["test"]
        probabilities = model.predict_proba(vectors[test]) if len(test) else np.zeros((0, len(names)))
        metrics = {
            "task": dict(summary(task)),
            "fitted": len(fitted),
            "test": len(test),
            "accuracy": _accuracy(model, vectors, names, task, test),
            "prototypes": dict(zip(task.classes, model.n_prototypes_.tolist(), strict=True)),
            "concentration": model.concentration_,
            "temperature": model.temperature_ if model.calibrated_ else None,
            "baselines": self.baselines(vectors, names, fitted, test),
        }
        write_json(folder / "metrics.json", metrics)
        write_report(folder / "report.html", task, metrics, load_classifier(folder), probabilities, test)

    def baselines(
        self, vectors: np.ndarray, names: np.ndarray, fitted: np.ndarray, test: np.ndarray
    ) -> dict[str, float | None]:
        """Accuracy of plain heads on the same states."""
        found = {}
        for name, model in (
            ("logistic regression", LogisticRegression(max_iter=1_000)),
            ("1-NN", KNeighborsClassifier(1)),
        ):
            model.fit(vectors[fitted], names[self.task.labels[fitted]])
            found[name] = _accuracy(model, vectors, names, self.task, test)
        return found


def trained_encoder(encoder: TextEncoder, directory: Path) -> TextEncoder:
    """The encoder with the parameters that a run has trained; as it is where the run left it frozen."""
    path = directory / "encoder" / "params.npz"
    return encoder._replace(params=load_params(path)) if path.exists() else encoder


def check_encoder(encoder: str, directory: Path) -> None:
    """Raises RunError where a file or folder is not the encoder any more that made the states of a run."""
    stored, path = read_json(directory / "states" / "encoder.json")["fingerprint"], Path(encoder)
    if stored != (fingerprint(path) if path.exists() else None):
        raise RunError(
            f"the encoder {encoder} is not the one that {directory} was fitted with: it was changed, or the path is "
            "relative to another folder; fit again, or predict from the folder of the fit"
        )


def read_config(directory: Path) -> FitConfig:
    """The config of a finished run.

    Raises RunError: the folder holds no finished run of `pmpjax prototypes fit`.
    """
    if not (directory / "fit").is_dir():
        raise RunError(f"{directory} holds no finished run of `pmpjax prototypes fit`; the same command finishes it")
    return FitConfig(**read_json(directory / "config.json"))


def _accuracy(model: Any, vectors: np.ndarray, names: np.ndarray, task: Task, test: np.ndarray) -> float | None:
    if not len(test):
        return None
    return float(np.mean(model.predict(vectors[test]) == names[task.labels[test]]))
