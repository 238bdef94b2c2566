"""Weights that ship with fna, one folder each: config, weights, tokenizer and card, as plain open_clip reads them."""
