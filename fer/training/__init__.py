"""How a network is trained: recipe, targets, batches, loop. Nothing here knows of workers' machines."""
