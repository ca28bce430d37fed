"""Videos, each made once for the tests of a file."""

import pytest
from sampled_videos import KINDS
from videos import make_video


@pytest.fixture(scope="module")
def make():
    """Return a function that makes a video of a kind, or returns the one that it has made."""
    made = {}

    def make_once(kind):
        if kind not in made:
            made[kind] = make_video(**{"num_frames": 100, **KINDS[kind]})
        return made[kind]

    return make_once
