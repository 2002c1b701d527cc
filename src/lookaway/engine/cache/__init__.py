"""What a KV cache knows of the tokens that left."""
