"""What every search of schedules shares: trial storage, sampling, and the evaluation of one schedule."""
