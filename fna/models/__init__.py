"""A pretrained network with its blocks, transform, token layout and what it can do."""
