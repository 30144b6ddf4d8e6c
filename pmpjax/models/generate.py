"""Writing on from a prompt, token by token, with a cache of keys and values."""

from jaxtyping import Array, Int

from pmpjax.models.attention import Attached
from pmpjax.models.decoder import Decoder
from pmpjax.models.losses import Parameters, TokenRows
from pmpjax.models.search.decoding import sample
from pmpjax.models.search.masks import TokenMask
from pmpjax.models.search.sampling import Sampling


def generate(
    decoder: Decoder,
    params: Parameters,
    prompts: TokenRows,
    steps: int,
    *,
    key: Array | None = None,
    temperature: float | Array = 0.0,
    top_k: int = 0,
    top_p: float | Array = 1.0,
    attached: Attached | None = None,
    mask: TokenMask | None = None,
) -> Int[Array, "n steps"]:
    """tokens ~ softmax(logits / temperature) over the most probable ones, one after another.

    `pmpjax.models.search.sample` also gives their log-probabilities, ends with the document, takes a mask, and says
    which rows end because logits were not finite; here their tokens are 0 from there on.

    Args:
        prompts: rows of any lengths, at least one token each; what lies behind a row's length is not read. Their
            tokens may be embeddings, [N, L, width].
        steps: tokens to write, for each row.
        key: random key; may be None at temperature 0.
        temperature: 0 takes the most probable token each time.
        top_k: only the k most probable tokens count (0: all).
        top_p: only the most probable tokens that together have this probability count, at least one.
        attached: what every row sees before its prompt, as `pmpjax.contexts.attach` makes it of demonstrations.
        mask: what may be written.

    Returns:
        [N, steps] int32. A row that has ended goes on: cut it at the end-of-document token.

    >>> import jax, jax.numpy as jnp
    >>> from pmpjax.data import Rows
    >>> from pmpjax.models import Decoder, DecoderConfig, initialise
    >>> decoder = Decoder(DecoderConfig(vocabulary=11, width=8, layers=1, heads=2, key_value_heads=1, hidden=16))
    >>> prompts = Rows(jnp.array([[1, 2, 3], [4, 0, 0]]), jnp.array([3, 1]))
    >>> generate(decoder, initialise(decoder, jax.random.key(0), prompts.tokens), prompts, 5).shape
    (2, 5)
    """
    sampling = Sampling(temperature, top_k, top_p)
    return sample(decoder, params, prompts, steps, sampling, key=key, mask=mask, attached=attached).tokens
