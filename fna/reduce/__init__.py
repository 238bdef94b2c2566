"""Token reducers: what becomes of the tokens between the attention and the MLP of a block, one file a method."""
