"""Memory of devices, live arrays and programs, and out-of-memory errors."""
