"""METER (arXiv 2111.02387) as transformers models."""
