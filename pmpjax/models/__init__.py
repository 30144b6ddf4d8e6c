"""Flax modules: the decoder (Mistral/Llama architecture, with the options of its relatives), the data scorer,
and a sentence encoder."""

from pmpjax.models.attention import Attached
from pmpjax.models.cache import Cache, empty_cache
from pmpjax.models.config import PRESETS, DecoderConfig, preset
from pmpjax.models.cross_entropy import cross_entropy
from pmpjax.models.decoder import Decoder, Recording, Trunk, recorded
from pmpjax.models.encoder import (
    Encoder,
    EncoderConfig,
    SentenceEncoder,
    encode_sentences,
    sentence_ids,
    sentence_vectors,
)
from pmpjax.models.encoder_files import load_encoder
from pmpjax.models.generate import generate
from pmpjax.models.io import load_pretrained, save_pretrained
from pmpjax.models.losses import (
    Parameters,
    TokenRows,
    example_losses,
    initialise,
    label_mask,
    mean_token_loss,
    parameter_count,
)
from pmpjax.models.pretrained_tokenizers import chat_ids, pretrained_tokenizer
from pmpjax.models.scorer import ScorerModel, with_trunk
from pmpjax.models.stacking import stack_layers, unstack_layers

__all__ = [
    "PRESETS",
    "Attached",
    "Cache",
    "Decoder",
    "DecoderConfig",
    "Encoder",
    "EncoderConfig",
    "Parameters",
    "Recording",
    "ScorerModel",
    "SentenceEncoder",
    "TokenRows",
    "Trunk",
    "chat_ids",
    "cross_entropy",
    "empty_cache",
    "encode_sentences",
    "example_losses",
    "generate",
    "initialise",
    "label_mask",
    "load_encoder",
    "load_pretrained",
    "mean_token_loss",
    "parameter_count",
    "preset",
    "pretrained_tokenizer",
    "recorded",
    "save_pretrained",
    "sentence_ids",
    "sentence_vectors",
    "stack_layers",
    "unstack_layers",
    "with_trunk",
]
