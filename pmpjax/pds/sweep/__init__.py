"""Algorithm 1 of PDS: the problem of the proxy run, its batches, the sweep, the scores, the outer loop."""
