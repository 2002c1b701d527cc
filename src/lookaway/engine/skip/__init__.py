"""Attention blocks that do not run, and the adapters in their place."""
