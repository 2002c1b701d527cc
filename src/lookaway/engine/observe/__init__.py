"""Read-only probes of a running model: attention flow, knockout, saliency, queries and keys."""
