"""One module a stage of `pmpjax pds run`, each from artifacts to artifacts."""
