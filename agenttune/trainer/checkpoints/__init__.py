"""Checkpoints: the catalog, branches, files, and the state that the loop's own files leave out."""
