"""States to go back to: the catalog with its branches, the files, and what of a training no file of the loop holds."""
