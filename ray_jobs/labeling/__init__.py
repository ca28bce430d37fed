"""The stages of ``label``: list, detect, write, update."""
