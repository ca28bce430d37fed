"""Copies of images among the CSV tables of a source, of which one table's rows are kept."""

import hashlib

import numpy as np

TABLE_DTYPE = np.dtype("<u8")
"""Identifies the table that a row is from. Images have the number 0."""


def table_id(location: str) -> int:
    """Return a number that identifies a table, from its location."""
    return int.from_bytes(hashlib.blake2b(location.encode(), digest_size=8).digest(), "little")


def find_redundant(digests: np.ndarray, tables: np.ndarray, has_usage: np.ndarray) -> np.ndarray:
    """Mark the rows of tables that only repeat rows of a table that tells their split.

    Kaggle packs FER2013 into several tables: ``icml_face_data.csv`` and ``fer2013.csv`` hold all of
    it, ``train.csv`` repeats a part without the column ``Usage``. For each image, the rows of the
    largest table with ``Usage`` are kept. Rows that repeat within that table are kept as well, as
    they are in FER2013. Images that are not in a table with ``Usage`` are all kept.

    Args:
        digests: SHA-256 of each example's pixels, V32 (N,).
        tables: Identifies the table of each example, uint64 (N,); 0 for images.
        has_usage: Whether each example has its split from ``Usage``, bool (N,).

    Returns:
        bool (N,).
    """
    ids, sizes = np.unique(tables[has_usage], return_counts=True)
    if len(ids) == 0 or len(np.unique(tables[tables != 0])) < 2:
        return np.zeros(len(digests), bool)
    # Ranks start with the largest table; rows without Usage rank behind all tables.
    order = np.lexsort((ids, -sizes))
    rank_of_id = np.empty(len(ids), int)
    rank_of_id[order] = np.arange(len(ids))
    ranks = np.full(len(digests), len(ids))
    ranks[has_usage] = rank_of_id[np.searchsorted(ids, tables[has_usage])]
    _, image = np.unique(digests, return_inverse=True)
    best = np.full(image.max() + 1, len(ids))
    np.minimum.at(best, image, ranks)
    redundant: np.ndarray = (tables != 0) & (ranks > best[image])
    return redundant
