"""LLaVA-1.5, VILA 1.0 and InternVL-Chat 1.0 (one layout) and LLaVA-1.6, as published, in transformers' own classes."""
