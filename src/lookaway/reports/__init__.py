"""Floor 5: tables, figures and pages from records. No model, no torch."""
