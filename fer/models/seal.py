"""A digest at the end of an ONNX file, by which damage to the file is noticed.

With a flipped bit, most ONNX files still open, and some then compute something else.
"""

import hashlib

_DIGITS = 64
_START = b"\x72\x4a\x0a\x06sha256\x12\x40"
"""How the entry ``sha256`` of a model's metadata begins, up to its digits: field 14 of 74 bytes,
with a key and a value. A field that is appended to protocol buffers belongs to them."""


def seal(graph: bytes) -> bytes:
    """Return an ONNX file whose metadata end in the SHA-256 of what comes before."""
    return graph + _START + _digest(graph)


def is_intact(graph: bytes) -> bool:
    """Tell whether an ONNX file is as it was sealed; a file without a seal counts as intact."""
    end = len(graph) - _DIGITS
    start = end - len(_START)
    if graph[start:end] != _START:
        return True
    return graph[end:] == _digest(graph[:start])


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
