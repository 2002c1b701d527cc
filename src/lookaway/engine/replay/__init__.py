"""Runs that start in the middle of the decoder: exit tables, resumed prefills, teacher forcing."""
