"""Routes chosen blocks of a running model through chosen attentions, and undoes itself."""
