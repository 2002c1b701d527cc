"""LaVIN (arXiv 2305.15023) as a transformers model."""
