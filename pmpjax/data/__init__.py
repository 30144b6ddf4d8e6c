"""Corpora to tokens to batches: sources, copies, tokenizer, rows, token storage, batch schedules."""

from pmpjax.data.batches import batch_schedule as batch_schedule
from pmpjax.data.batches import scheduled_batches as scheduled_batches
from pmpjax.data.documents import Document as Document
from pmpjax.data.documents import Rejection as Rejection
from pmpjax.data.documents import SourceError as SourceError
from pmpjax.data.duplicates import find_copies as find_copies
from pmpjax.data.packing import packed_rows as packed_rows
from pmpjax.data.prepared import DocumentTable as DocumentTable
from pmpjax.data.prepared import Prepared as Prepared
from pmpjax.data.prepared import load_prepared as load_prepared
from pmpjax.data.rows import Rows as Rows
from pmpjax.data.rows import document_rows as document_rows
from pmpjax.data.sources import read_source as read_source
from pmpjax.data.sources import read_sources as read_sources
from pmpjax.data.sources.installed import Budget as Budget
from pmpjax.data.stream import PackedRows as PackedRows
from pmpjax.data.stream import token_stream as token_stream
from pmpjax.data.tokenizer import load_tokenizer as load_tokenizer
from pmpjax.data.tokenizer import train_tokenizer as train_tokenizer

__all__ = [
    "Budget",
    "Document",
    "DocumentTable",
    "PackedRows",
    "Prepared",
    "Rejection",
    "Rows",
    "SourceError",
    "batch_schedule",
    "document_rows",
    "find_copies",
    "load_prepared",
    "load_tokenizer",
    "packed_rows",
    "read_source",
    "read_sources",
    "scheduled_batches",
    "token_stream",
    "train_tokenizer",
]
