"""Parsed examples as tables, and what is counted of them."""

from fer.data import parsed
from fer.data.items import SourceItem
from fer.data.parsing import Rules, parse_item


def test_samples_show_different_images():
    """Copies would be the same picture again. A class that has ten images gets ten samples."""
    rows = ["emotion,pixels,Usage"]
    for level in (*[1] * 15, *range(2, 20)):
        rows.append(f"3,{' '.join([str(level)] * 2304)},Training")
    item = SourceItem("rows", "x.csv", "x.csv", "\n".join(rows).encode(), 1)
    samples = parsed.count(parsed.to_table(parse_item(item, Rules()))).samples[3]
    digests = [digest for digest, _ in samples]
    assert len(samples) == len(set(digests)) == 10
    assert digests == sorted(digests)
