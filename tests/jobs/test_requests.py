"""What labeling a bucket asks of the store, beside what plan says of it."""

from collections import Counter

import pytest

from fer.cost_model import ClusterShape, Coefficients, plan_label
from fer.data.synthetic import draw_faces
from ray_jobs.plan import DEFAULTS

NUM_IMAGES = 300


@pytest.fixture
def photographs(s3, png):
    images, _ = draw_faces(NUM_IMAGES, seed=4)
    for number, image in enumerate(images):
        s3.put_object(Bucket="open", Key=f"asked/in/{number:03d}.png", Body=png(image))
    return "s3://open/asked/in"


@pytest.mark.slow
def test_the_number_of_requests_is_as_planned(fer, photographs, checkpoint, s3_proxy):
    s3_proxy.requests.clear()
    flags = ("--detector", "none", "--engine", "float32", "--checkpoint", checkpoint)
    assert (
        fer("label", "--images", photographs, "--output", "s3://open/asked/out", *flags).code == 0
    )
    # The lease is renewed by time, not by images.
    requests = Counter(kind(request) for request in s3_proxy.requests if ".lease-" not in request)
    planned = plan_label(
        NUM_IMAGES, ClusterShape(1, 4), Coefficients.read(str(DEFAULTS)), megapixels=None
    ).requests
    # Plus about a dozen that belong to no image or chunk.
    assert requests["get"] == pytest.approx(planned["get"], abs=30)
    assert requests["put"] == pytest.approx(planned["put"], abs=30)
    # One request lists a thousand files. Other parts of the job list folders too.
    assert planned["list"] <= requests["list"] < planned["list"] + 80


def kind(request):
    """Return the kind of a request, by which stores charge."""
    method, path = request.split(" ", 1)
    if method in ("GET", "HEAD"):
        return "list" if "list-type=2" in path else "get"
    return "put"
