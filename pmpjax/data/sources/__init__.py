"""Where documents come from, a module a kind; `read` chooses by the name of the source."""

from pmpjax.data.sources.read import INSTALLED as INSTALLED
from pmpjax.data.sources.read import Corpus as Corpus
from pmpjax.data.sources.read import packages_of as packages_of
from pmpjax.data.sources.read import read_source as read_source
from pmpjax.data.sources.read import read_sources as read_sources

__all__ = ["INSTALLED", "Corpus", "packages_of", "read_source", "read_sources"]
