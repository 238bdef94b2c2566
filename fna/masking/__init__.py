"""Which tokens are massive or artifact, and attentions that leave them out."""
