"""Datasets of labeled faces: reading CSV files, folders and archives, and the emotions' names."""
