"""An OpenAI-compatible server around one attached model (`lookaway serve`)."""
