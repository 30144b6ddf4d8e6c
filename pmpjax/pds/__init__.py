"""PDS: one module a stage, each from artifacts to artifacts; `run` does them all, `run_stage` one."""

from pmpjax.pds.config import PDSConfig
from pmpjax.pds.pipeline import run, run_stage

__all__ = ["PDSConfig", "run", "run_stage"]
