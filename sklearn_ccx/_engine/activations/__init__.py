"""From pre-activations to sparse, non-negative codes."""
