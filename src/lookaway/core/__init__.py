"""Floor 0: words and data. Knows torch and the standard library, nothing above."""
