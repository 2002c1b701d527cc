"""The prefill of one prompt: its state, and the one step that takes it through a decoder layer."""
