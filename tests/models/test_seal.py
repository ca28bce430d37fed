"""A damaged graph is refused, whichever bit of it was flipped."""

import hashlib
from dataclasses import replace

import numpy as np
import onnx
import pytest

from fer.errors import InputError
from fer.models.checkpoint import load_checkpoint
from fer.models.engine import build_engine, with_graphs
from fer.models.seal import is_intact, seal
from fer.models.shipped import SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize(("form", "engine"), [("graph", "float32"), ("int8", "auto")])
def test_no_flipped_bit_of_a_shipped_graph_is_overlooked(name, form, engine, capfd):
    (member,) = load_checkpoint(name).members
    graph = getattr(member, form)
    # But for the entry's own name, without which there is no digest to compare.
    for place in [*np.linspace(0, len(graph) - 77, 20, dtype=int), *range(-64, 0, 7)]:
        flipped = bytearray(graph)
        flipped[place] ^= 1 << int(place) % 8
        with pytest.raises(InputError, match="is damaged; delete it, or copy the checkpoint again"):
            build_engine(replace(member, **{form: bytes(flipped)}), "cpu", engine)
    assert capfd.readouterr() == ("", ""), "ONNX Runtime does not print its own errors"


def test_a_graph_that_is_made_is_sealed(save_network, tmp_path):
    save_network(tmp_path, "conv1")
    (member,) = with_graphs(load_checkpoint(str(tmp_path))).members
    assert is_intact(member.graph)
    assert not is_intact(member.graph[1:])
    assert not is_intact(member.graph[:-1] + b"x")


def test_the_digest_is_an_entry_of_the_metadata():
    (member,) = load_checkpoint("bundled").members
    content = onnx.load_from_string(member.graph)
    (entry,) = [entry for entry in content.metadata_props if entry.key == "sha256"]
    content.metadata_props.remove(entry)
    unsealed = content.SerializeToString()
    assert entry.value == hashlib.sha256(unsealed).hexdigest()
    assert is_intact(unsealed), "files of other programs have no seal"
    assert seal(unsealed) == member.graph
