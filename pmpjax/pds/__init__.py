"""PDS: one module a stage, each from artifacts to artifacts; `pmpjax.pds.pipeline` runs them all.

The stages are imported by their modules' names, so that `pmpjax.pds.prepare` does not wait for the models.
"""
