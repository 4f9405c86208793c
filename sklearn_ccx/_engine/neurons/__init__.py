"""MLPs as frozen tensors, and what the features write to their neurons."""
