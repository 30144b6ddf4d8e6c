"""PDS: one module a stage, each from artifacts to artifacts; `run` does them all."""

from pmpjax.pds.pipeline import PDSConfig, run

__all__ = ["PDSConfig", "run"]
