"""The HTTP endpoint: a server that no client can block, its paths and the live page."""
