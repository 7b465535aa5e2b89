"""Labels of functions and call sites, and the registry of jitted functions."""
