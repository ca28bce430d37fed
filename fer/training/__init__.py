"""How a network is trained: recipe, targets, batches, loop; the same on one worker or many."""
