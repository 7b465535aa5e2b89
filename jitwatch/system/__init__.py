"""What the operating system and the launcher provide: files, threads, ranks, limits."""
