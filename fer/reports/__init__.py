"""Reports: plots as PNG files, and the HTML pages that show them."""
