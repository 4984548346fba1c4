"""AWQ 4-bit checkpoints: making them, reading them back, and fitting an adapter to them."""
