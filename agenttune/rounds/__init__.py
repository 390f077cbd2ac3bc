"""Several runs of one script: what is planned, done and learned, kept in a journal from which everything is folded."""
