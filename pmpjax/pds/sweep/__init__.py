"""Algorithm 1 of PDS (`outer`) and its parts: config, the controlled system, batches, scores, diagnostics."""
