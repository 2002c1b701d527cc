"""Many requests on one attached model: prefill one by one, decode together. Knows no HTTP."""
