"""The baselines as data: what each one is called, where it comes from, what it costs, and how it is made."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

from pmpjax.baselines.dsir import dsir
from pmpjax.baselines.gradients import gradient_flops, gradient_similarity
from pmpjax.baselines.influence import influence, influence_flops
from pmpjax.baselines.instances import Scorer
from pmpjax.baselines.rho import rho_flops, rho_loss
from pmpjax.data import Prepared
from pmpjax.models import Decoder
from pmpjax.runs.errors import nearest
from pmpjax.train.model import ModelConfig, forward_flops
from pmpjax.train.warm_start import WarmStart

BaselineName = Literal["dsir", "rho-loss", "influence", "gradient-similarity"]
BASELINES: tuple[BaselineName, ...] = get_args(BaselineName)

TUNING_STEPS, TUNING_BATCH = 100, 16
HESSIAN_ROWS, ITERATIONS = 256, 20


class Setting(NamedTuple):
    """What a baseline is made from: the data, and the proxy with its sizes."""

    model: ModelConfig
    prepared: Prepared
    proxy: WarmStart

    @property
    def decoder(self) -> Decoder:
        """The proxy's module."""
        return Decoder(self.model.decoder(self.prepared.vocabulary))

    @property
    def source_rows(self) -> int:
        """Rows of the source."""
        return len(self.prepared.source.tokens)

    @property
    def dev_rows(self) -> int:
        """Rows of the target's dev split."""
        return len(self.prepared.dev.tokens)

    def forward(self, rows: int) -> float:
        """FLOPs of the proxy's forward pass over so many rows."""
        labels = self.prepared.source.tokens.shape[1] - 1
        return forward_flops(self.model.decoder(self.prepared.vocabulary), rows * labels)


class Baseline(NamedTuple):
    """A method of selection that PDS is compared with.

    Fields:
        title: as on a page. paper, arxiv: where the method comes from; its function names what is different here.
        uses_proxy: whether it needs the proxy's training, whose cost then counts as its own.
        scorer: makes the method.
        flops: of scoring the whole source once, the proxy's training not among them.
    """

    title: str
    paper: str
    arxiv: str
    uses_proxy: bool
    scorer: Callable[[Setting], Scorer]
    flops: Callable[[Setting], float]


def _gradient_similarity(of: Setting) -> Scorer:
    proxy = of.proxy  # with the moments that its training ended with
    return gradient_similarity(
        of.decoder,
        proxy.params,
        opt_state=proxy.opt_state,
        first_moment=proxy.optimizer.first_moment,
        second_moment=proxy.optimizer.second_moment,
    )


REGISTRY: dict[BaselineName, Baseline] = {
    "dsir": Baseline(
        title="DSIR",
        paper="Data Selection for Language Models via Importance Resampling",
        arxiv="2302.03169",
        uses_proxy=False,
        scorer=lambda of: dsir(),
        flops=lambda of: 0.0,  # no matrix product
    ),
    "rho-loss": Baseline(
        title="RHO-Loss",
        paper="Prioritized Training on Points that are Learnable, Worth Learning, and Not Yet Learnt",
        arxiv="2206.07137",
        uses_proxy=True,
        scorer=lambda of: rho_loss(of.decoder, of.proxy.params, steps=TUNING_STEPS, batch=TUNING_BATCH),
        flops=lambda of: rho_flops(of.forward, rows=of.source_rows, steps=TUNING_STEPS, batch=TUNING_BATCH),
    ),
    "influence": Baseline(
        title="influence",
        paper="Understanding Black-box Predictions via Influence Functions",
        arxiv="1703.04730",
        uses_proxy=True,
        scorer=lambda of: influence(of.decoder, of.proxy.params, iterations=ITERATIONS, hessian_rows=HESSIAN_ROWS),
        flops=lambda of: influence_flops(  # all iterations, of which it may need fewer
            of.forward,
            rows=of.source_rows,
            dev_rows=of.dev_rows,
            hessian_rows=min(HESSIAN_ROWS, of.source_rows),
            iterations=ITERATIONS,
        ),
    ),
    "gradient-similarity": Baseline(
        title="gradient similarity",
        paper="LESS: Selecting Influential Data for Targeted Instruction Tuning",
        arxiv="2402.04333",
        uses_proxy=True,
        scorer=_gradient_similarity,
        flops=lambda of: gradient_flops(of.forward, rows=of.source_rows, dev_rows=of.dev_rows),
    ),
}
"""The baselines by name, with the settings that a run compares PDS with."""


def title(name: str) -> str:
    """A method as it is written on a page; a name that is not in the registry stays as it is.

    >>> title("rho-loss"), title("random")
    ('RHO-Loss', 'random')
    """
    return REGISTRY[name].title if name in REGISTRY else name


def uses_proxy(name: str) -> bool:
    """Whether a baseline needs the proxy's training, whose cost then counts as its own."""
    return any(baseline.uses_proxy for known, baseline in REGISTRY.items() if known == name)


def check_baselines(names: Sequence[str]) -> None:
    """ValueError for a name that is none of `BASELINES`, with the nearest one, or that is there twice.

    >>> check_baselines(["rho"])
    Traceback (most recent call last):
    ValueError: baselines names 'rho'; did you mean rho-loss? (dsir, rho-loss, influence, gradient-similarity)
    """
    for name in names:
        if name not in BASELINES:
            meant = nearest(name, BASELINES)
            hint = f"; did you mean {meant}?" if meant else "; expected one of"
            raise ValueError(f"baselines names {name!r}{hint} ({', '.join(BASELINES)})")
    if len(set(names)) < len(names):
        raise ValueError(f"baselines names one twice: {', '.join(names)}; name each once")
