import pytest

from fer.drawings import draw_faces


@pytest.fixture(scope="session")
def faces():
    return draw_faces(60, seed=1)
