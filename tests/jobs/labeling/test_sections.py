"""How a source is divided into sections that tasks list at the same time."""

import os
import shutil

import pytest

from ray_jobs.labeling.sections import Section, SectionKind, divide


def make_folders(root):
    for name in ("a/x", "a/y", "b"):
        (root / name).mkdir(parents=True)
        (root / name / "image.png").touch()
    (root / "top.png").touch()


def listed(sections):
    return sorted(item.source for section in sections for item in section.items())


def test_few_folders_are_expanded_completely(tmp_path):
    make_folders(tmp_path)
    sections = divide(str(tmp_path))
    assert {section.kind for section in sections} == {SectionKind.FOLDER}
    assert len(sections) == 5
    assert listed(sections) == sorted(map(str, tmp_path.rglob("*.png")))


def test_folders_are_expanded_until_there_are_enough_sections(tmp_path, monkeypatch):
    make_folders(tmp_path)
    monkeypatch.setattr("ray_jobs.labeling.sections.MIN_SECTIONS", 2)
    sections = divide(str(tmp_path))
    assert set(sections) == {
        Section(f"{tmp_path}/a", SectionKind.TREE),
        Section(f"{tmp_path}/b", SectionKind.TREE),
        Section(str(tmp_path), SectionKind.FOLDER),
    }
    assert listed(sections) == sorted(map(str, tmp_path.rglob("*.png")))


def test_a_folder_with_very_many_children_is_listed_as_a_tree(tmp_path, monkeypatch):
    make_folders(tmp_path)
    monkeypatch.setattr("fer.storage.listing.MAX_CHILDREN", 2)
    assert divide(str(tmp_path)) == [Section(str(tmp_path), SectionKind.TREE)]


def test_a_limit_needs_one_section_in_the_order_of_names(tmp_path):
    make_folders(tmp_path)
    sections = divide(str(tmp_path), whole=True)
    assert sections == [Section(str(tmp_path), SectionKind.TREE)]


def test_each_file_of_a_manifest_is_a_section(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in ("1.parquet", "2.parquet"):
        pq.write_table(pa.table({"image": ["a.png"]}), tmp_path / name)
    sections = divide(str(tmp_path))
    assert [section.kind for section in sections] == [SectionKind.MANIFEST] * 2
    assert divide(str(tmp_path), whole=True) == [Section(str(tmp_path), SectionKind.MANIFEST)]


@pytest.mark.parametrize("kind", [SectionKind.TREE, SectionKind.FOLDER])
def test_a_folder_that_is_gone_is_a_rejected_item(tmp_path, kind):
    (item,) = Section(f"{tmp_path}/gone", kind).items()
    assert (item.kind, item.source, item.etag) == ("rejected", f"{tmp_path}/gone/", None)
    assert item.reason == "is gone since it was listed"


def test_a_folder_that_goes_while_the_source_is_divided_is_a_rejected_item(tmp_path, monkeypatch):
    make_folders(tmp_path)
    scandir, scanned = os.scandir, []

    def scan_and_lose(path):
        scanned.append(str(path))
        # The first time, the source is looked at to tell it from a manifest.
        if scanned[-1] == f"{tmp_path}/b" and scanned.count(scanned[-1]) == 2:
            shutil.rmtree(tmp_path / "b", ignore_errors=True)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan_and_lose)
    items = [item for section in divide(str(tmp_path)) for item in section.items()]
    images = {f"{tmp_path}/{name}" for name in ("a/x/image.png", "a/y/image.png", "top.png")}
    assert {item.source for item in items} == {*images, f"{tmp_path}/b/"}
