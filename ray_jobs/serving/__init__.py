"""What serve runs on the nodes: replicas."""
