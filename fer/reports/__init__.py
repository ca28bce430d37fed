"""Plots as PNG bytes, and the pages that hold them."""
