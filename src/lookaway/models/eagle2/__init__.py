"""Eagle2-1B and -2B as published: SigLIP, pixel shuffle and Qwen2, with tiles and prompts of their own."""
