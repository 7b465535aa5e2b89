"""What the boards and rules are made from. `python -m dashboards.source.generate` writes them."""
