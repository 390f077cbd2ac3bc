"""What a training process writes into its run's log, from a background thread, at next to no cost for the training."""
