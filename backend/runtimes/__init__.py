"""One adapter for each way to compute hidden states."""
