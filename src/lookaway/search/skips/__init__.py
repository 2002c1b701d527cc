"""The search of EAS: which attentions a task needs least."""
