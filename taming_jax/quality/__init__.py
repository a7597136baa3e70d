"""How good pictures are, as the field measures it: distances of sets on features, with the whole protocol."""
