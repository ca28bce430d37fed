"""Facial emotion recognition: what an emotion model is, in plain Python without Ray."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fer.models.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the type of whatever is asked for
    # Imported when first used, so that the command line's --help does not wait for torch.
    if name in __all__:
        from fer.models import predictor  # noqa: PLC0415

        return getattr(predictor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
