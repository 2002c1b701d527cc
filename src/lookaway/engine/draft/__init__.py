"""Self-speculative decoding: the first K layers guess answer tokens, the others check them in one pass."""
