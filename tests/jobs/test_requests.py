"""What labelling a bucket asks of the store, beside what plan says of it."""

from collections import Counter

import pytest

from fer.drawings import draw_faces
from fer.plan import Coefficients, Shape, plan_label
from ray_jobs.plan import DEFAULTS

NUM_IMAGES = 300


@pytest.fixture
def photographs(s3, png):
    images, _ = draw_faces(NUM_IMAGES, seed=4)
    for number, image in enumerate(images):
        s3.put_object(Bucket="open", Key=f"asked/in/{number:03d}.png", Body=png(image))
    return "s3://open/asked/in"


@pytest.mark.slow
def test_requests_are_as_many_as_planned(fer, photographs, checkpoint, s3_proxy):
    s3_proxy.asked.clear()
    flags = ("--detector", "none", "--engine", "float32", "--checkpoint", checkpoint)
    assert (
        fer("label", "--images", photographs, "--output", "s3://open/asked/out", *flags).code == 0
    )
    asked = Counter(kind(request) for request in s3_proxy.asked)
    planned = plan_label(
        NUM_IMAGES, Shape(1, 4), Coefficients.read(str(DEFAULTS)), megapixels=None
    ).requests
    # With a dozen that belong to no image and no chunk.
    assert asked["get"] == pytest.approx(planned["get"], abs=30)
    assert asked["put"] == pytest.approx(planned["put"], abs=30)
    # A listing of a thousand takes one, and the pieces of the job look around besides.
    assert planned["list"] <= asked["list"] < planned["list"] + 80


def kind(request):
    """Name what a request costs."""
    method, path = request.split(" ", 1)
    if method in ("GET", "HEAD"):
        return "list" if "list-type=2" in path else "get"
    return "put"
