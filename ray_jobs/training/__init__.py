"""Training on Ray: settings, worker, placement, streaming, checkpoints, studies, MLflow."""
