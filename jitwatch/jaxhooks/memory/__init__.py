"""Device memory, live arrays, programs and out-of-memory errors."""
