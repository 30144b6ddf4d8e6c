"""Flax modules: the decoder (Mistral/Llama architecture) and the data scorer on its trunk."""

from pmpjax.models.decoder import (
    Decoder,
    DecoderConfig,
    Parameters,
    Rows,
    Trunk,
    cross_entropy,
    example_losses,
    initialise,
    label_mask,
    mean_token_loss,
    parameter_count,
)
from pmpjax.models.scorer import ScorerModel, with_trunk

__all__ = [
    "Decoder",
    "DecoderConfig",
    "Parameters",
    "Rows",
    "ScorerModel",
    "Trunk",
    "cross_entropy",
    "example_losses",
    "initialise",
    "label_mask",
    "mean_token_loss",
    "parameter_count",
    "with_trunk",
]
