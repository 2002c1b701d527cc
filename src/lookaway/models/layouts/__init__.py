"""Reading checkpoints in their authors' own layouts."""
