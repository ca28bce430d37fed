"""What labels are: their schema, their files, and which images are asked for."""
