"""Floor 4: paired runs, scores, statistics, cost and latency."""
