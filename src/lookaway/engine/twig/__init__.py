"""A twig on a live model: its layers, what it ranks by, and what it drafts."""
