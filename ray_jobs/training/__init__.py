"""What ``train`` and ``tune`` share: placement, streaming, checkpoints, MLflow."""
