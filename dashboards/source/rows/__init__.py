"""The rows of a run's board, one file each."""
