"""Facial emotion recognition in plain Python: data, models, labels, serving and reports."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fer.models.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the type depends on the attribute
    # Importing the predictor on first use keeps `fer --help` from waiting for torch.
    if name in __all__:
        from fer.models import predictor  # noqa: PLC0415

        return getattr(predictor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
