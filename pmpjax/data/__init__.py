"""Corpora to tokens to batches: sources, tokenizer, packing, token storage, batch schedules."""

from pmpjax.data.prepared import DocumentTable, Prepared, loss_mask

__all__ = ["DocumentTable", "Prepared", "loss_mask"]
