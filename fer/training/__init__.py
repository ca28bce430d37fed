"""Training of a network: recipe, targets, batches and loop, the same on one worker or many."""
