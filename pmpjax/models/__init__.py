"""Flax modules: the decoder (Mistral/Llama architecture, with the options of its relatives), the data scorer,
a sentence encoder, and Kosmos-2: a vision tower and a connector before the decoder."""

from pmpjax.models.attention import Attached
from pmpjax.models.cache import Cache, empty_cache
from pmpjax.models.config import PRESETS, DecoderConfig, preset
from pmpjax.models.connector import Connector, ConnectorConfig
from pmpjax.models.cross_entropy import cross_entropy
from pmpjax.models.decoder import Decoder, Trunk
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
from pmpjax.models.io import load_decoder, load_pretrained, save_pretrained
from pmpjax.models.kosmos import (
    EmbeddedRows,
    ImageRows,
    Kosmos,
    KosmosConfig,
    embedded,
    image_example_losses,
    image_label_mask,
    image_token_loss,
    magneto,
)
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
from pmpjax.models.recording import Recording, recorded
from pmpjax.models.scorer import ScorerModel, with_trunk
from pmpjax.models.stacking import stack_layers, unstack_layers
from pmpjax.models.vision import Vision, VisionConfig

__all__ = [
    "PRESETS",
    "Attached",
    "Cache",
    "Connector",
    "ConnectorConfig",
    "Decoder",
    "DecoderConfig",
    "EmbeddedRows",
    "Encoder",
    "EncoderConfig",
    "ImageRows",
    "Kosmos",
    "KosmosConfig",
    "Parameters",
    "Recording",
    "ScorerModel",
    "SentenceEncoder",
    "TokenRows",
    "Trunk",
    "Vision",
    "VisionConfig",
    "chat_ids",
    "cross_entropy",
    "embedded",
    "empty_cache",
    "encode_sentences",
    "example_losses",
    "generate",
    "image_example_losses",
    "image_label_mask",
    "image_token_loss",
    "initialise",
    "label_mask",
    "load_decoder",
    "load_encoder",
    "load_pretrained",
    "magneto",
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
