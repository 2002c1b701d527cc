"""Floor 4: exit labels, gates, calibration, adapters and exit-aware tuning."""
