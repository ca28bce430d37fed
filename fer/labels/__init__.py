"""Labels: their schema and files, and the selection of the images to label."""
