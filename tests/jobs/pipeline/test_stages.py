"""How sources are cut into chunks, each of which is a task."""

import pyarrow as pa

from fer.data.items import SourceItem
from ray_jobs.pipeline import stages


def test_the_files_of_one_folder_are_shared_among_tasks(cluster, tmp_path):
    (tmp_path / "happy").mkdir()
    for number in range(600):
        (tmp_path / "happy" / f"{number}.png").write_bytes(b"")
    chunks = stages.read_sources([str(tmp_path)]).materialize()
    assert chunks.num_blocks() == 3
    tables = [stages.unpack(row["table"]) for row in chunks.iter_rows()]
    assert sorted(map(len, tables)) == [88, 256, 256]
    assert len(pa.concat_tables(tables)["source"].unique()) == 600


def test_items_with_data_are_grouped_by_their_bytes():
    items = [SourceItem("image", f"{number}", data=bytes(100)) for number in range(1000)]
    sizes = [len(batch) for batch in stages.batch_items(items, max_bytes=30_000)]
    assert sizes == [300, 300, 300, 100]
