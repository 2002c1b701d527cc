"""Floor 1: model classes and checkpoint layouts that transformers lacks, loading, prompts and answers."""
