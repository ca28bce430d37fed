"""Jobs and the Ray cluster: connecting, resources, autoscaling, isolation of poison tasks."""
