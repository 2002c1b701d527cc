"""Searches for keep schedules: G-Search, P-Sigmoid, VTW, and all methods compared at equal cost."""
