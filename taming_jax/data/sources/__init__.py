"""What there is to train on: one file a source, or a family of them."""
