"""Train states, train steps and the loop that drives them."""
