"""Published checkpoints in their authors' own layouts: what a folder is, its tensors one at a time, what it becomes."""
