"""KV-cache policies: what of a decoder's keys and values is kept after the prompt, one file a method."""
