"""The collapsed rows of a run's board."""
