"""Building blocks of several jobs: stages, progress, output folders, locations."""
