"""What runs on a cluster: one module a job, and the only place that imports Ray."""
