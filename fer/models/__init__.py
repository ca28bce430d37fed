"""Networks: how they are built, stored, loaded and run."""
