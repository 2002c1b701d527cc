"""`lookaway-mini`, the default model, and the weights that ship with it."""
