"""Floor 4: searches for keep schedules and skip sets."""
