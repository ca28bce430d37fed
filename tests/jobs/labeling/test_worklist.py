"""The worklist, without a cluster."""

import zipfile

from fer.data.items import SourceItem
from fer.labels.globs import Selection
from ray_jobs.labeling import chunks, worklist
from ray_jobs.labeling.worklist import Worklist
from ray_jobs.pipeline import stages


def test_ignored_files_are_counted_by_their_endings():
    found = Worklist()
    for kind, name in (("ignored", "a.JXL"), ("ignored", "b.jxl"), ("image", "c.png")):
        found.count(SourceItem(kind, name))
    assert (found.kinds, found.ignored) == ({"ignored": 2, "image": 1}, {".jxl": 2})


def test_chunks_of_files_and_of_archives_have_as_many_images_as_wanted(tmp_path):
    items = [SourceItem("image", f"/{number:03d}.png") for number in range(1000)]
    split = worklist._split(stages.to_table(items), Worklist(), 1, max_images=50)
    sizes = [len(chunk.items) for chunk in split]
    assert (max(sizes), sum(sizes)) == (50, 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(100):
            archive.writestr(f"{number:03d}.png", "")
    packed, selection = SourceItem("archive", str(tmp_path / "a.zip")), Selection(str(tmp_path))
    split = chunks._split_archive(packed, selection, "", max_images=20)
    assert [len(chunk.items) for chunk in split] == [20] * 5
