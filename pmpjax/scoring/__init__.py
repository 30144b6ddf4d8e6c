"""A function of rows mapped over a corpus: the regressor, its scores in shards, and the selection of the highest."""
