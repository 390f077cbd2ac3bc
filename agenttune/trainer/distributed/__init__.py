"""Several processes that train one model: rank 0 reads the log, and all apply the same at the same step."""
