"""InternVL as published: InternViT, and InternVL2 / 2.5 with their three kinds of decoders."""
