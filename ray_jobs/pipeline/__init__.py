"""What several jobs are built from: stages, progress, output folders."""
