"""The worklist, without a cluster."""

from fer.data.items import SourceItem
from ray_jobs.labeling.worklist import Worklist


def test_ignored_files_are_counted_by_their_endings():
    found = Worklist()
    for kind, name in (("ignored", "a.JXL"), ("ignored", "b.jxl"), ("image", "c.png")):
        found.count(SourceItem(kind, name))
    assert (found.kinds, found.ignored) == ({"ignored": 2, "image": 1}, {".jxl": 2})
