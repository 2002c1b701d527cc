"""Floor 5: policies where people serve models."""
