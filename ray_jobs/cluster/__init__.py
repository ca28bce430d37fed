"""What jobs ask of a Ray cluster: to join it, to have room in it, to survive it."""
