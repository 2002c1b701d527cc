"""Floor 2: carries decisions out on a live model, records what a run needs for labels, observes. Knows no method."""
