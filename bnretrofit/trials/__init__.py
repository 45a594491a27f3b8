"""Two models, tried on inputs: whole, layer by layer, and against their own rounding."""
