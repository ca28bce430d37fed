"""From CSV files, folders and archives to the examples of a dataset."""
