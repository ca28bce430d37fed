"""Photographs of plates instead of faces, and a network with YuNet's interface that finds them.

A plate is a green disk or ellipse with two spots where eyes are, its right one red, its left one
blue. The network has no learned weights: it computes where the colored pixels around each cell of
32 by 32 lie and how far they spread, which is exact where plates are at least 200 pixels of the
shrunk photograph apart, and narrower than 120.
"""

import math
from functools import lru_cache

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

GROUND, PLATE, RIGHT_EYE, LEFT_EYE = (90, 90, 90), (0, 150, 0), (255, 105, 105), (0, 0, 150)
"""Red, green and blue. The right eye is the brightest and the left the darkest in gray."""

OUTPUTS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
"""Numbers that YuNet gives out for each cell, of each stride."""

STRIDE, REACH = 32, 2
"""Pixels of a cell, and how many cells to each side are taken into account."""


def draw_plates(size, plates):
    """Return a photograph uint8 (H, W, 3) of plates.

    Args:
        size: Its width and height.
        plates: Center as x and y, width, height, and how far the eyes are tilted in degrees.
    """
    photo = np.full((size[1], size[0], 3), GROUND, np.uint8)
    for x, y, width, height, tilt in plates:
        _ellipse(photo, (x, y), (width / 2, height / 2), PLATE)
        for eye, color in zip(eyes_of(x, y, width, tilt), (RIGHT_EYE, LEFT_EYE), strict=True):
            _ellipse(photo, eye, (width / 11, width / 11), color)
    return photo


def eyes_of(x, y, width, tilt):
    """Return the places of the right and the left eye of a plate, float (2, 2)."""
    turn = math.radians(tilt)
    across = width / 4 * np.array([math.cos(turn), math.sin(turn)])
    above = width / 8 * np.array([math.sin(turn), -math.cos(turn)])
    return np.array([x, y]) + above + np.array([-across, across])


def boxes_of(plates):
    """Return left, top, width and height of plates, float (N, 4)."""
    return np.array([[x - w / 2, y - h / 2, w, h] for x, y, w, h, _ in plates])


def _ellipse(photo, center, axes, color):
    shift = 6
    fixed = [round(value * 2**shift) for value in (*center, *axes)]
    cv2.ellipse(photo, tuple(fixed[:2]), tuple(fixed[2:]), 0, 0, 360, color, -1, cv2.LINE_AA, shift)


@lru_cache(maxsize=1)
def plate_detector():
    """Return the network as an ONNX file with YuNet's one input and twelve outputs."""
    graph = _Graph()
    _find(graph)
    for stride in (8, 16):
        for kind, width in OUTPUTS.items():
            weights = np.zeros((width, 3, stride, stride))
            graph.flat(graph.conv("input", weights, stride=stride), f"{kind}_{stride}", width)
    outputs = [
        helper.make_tensor_value_info(f"{kind}_{stride}", TensorProto.FLOAT, [1, None, width])
        for kind, width in OUTPUTS.items()
        for stride in (8, 16, 32)
    ]
    shape = [1, 3, 640, 640]
    made = helper.make_graph(
        graph.nodes,
        "plates",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        outputs,
        graph.constants,
    )
    opset = helper.make_opsetid("", 12)
    model = helper.make_model(made, opset_imports=[opset], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


class _Graph:
    """Nodes that are added one after another, each named by its number."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def constant(self, values):
        name = f"constant_{len(self.constants)}"
        array = np.asarray(values, np.float32)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, kind, *inputs, output=None, **attributes):
        name = output or f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def conv(self, value, weights, bias=None, stride=1, padding=0):
        weights = np.asarray(weights, np.float32)
        bias = np.zeros(len(weights)) if bias is None else bias
        return self.add(
            "Conv",
            *(value, self.constant(weights), self.constant(bias)),
            kernel_shape=list(weights.shape[2:]),
            strides=[stride, stride],
            pads=[padding] * 4,
        )

    def linear(self, value, weights, bias=None):
        """Mix channels at each place."""
        return self.conv(value, np.asarray(weights, np.float32)[:, :, None, None], bias)

    def flat(self, value, name, width):
        """Give out a map of ``width`` channels as YuNet does: a row a cell."""
        shape = f"shape_{name}"
        rows = numpy_helper.from_array(np.array([1, -1, width], np.int64), shape)
        self.constants.append(rows)
        moved = self.add("Transpose", value, perm=[0, 2, 3, 1])
        return self.add("Reshape", moved, shape, output=name)


def _find(graph):
    """Add what finds plates: the outputs of stride 32."""
    moments = _moments(graph, _masks(graph))
    # Of the plate: area, x, y, x², y²; of each eye: area, x, y; all around the cell's center.
    names = ["area", "x", "y", "xx", "yy", "right", "right_x", "right_y", "left", "left_x"]
    names += ["left_y"]
    pick = {name: graph.linear(moments, np.eye(11)[[row]]) for row, name in enumerate(names)}
    area = {name: graph.linear(pick[name], [[1.0]], [1e-6]) for name in ("area", "right", "left")}
    x, y = (graph.add("Div", pick[name], area["area"]) for name in ("x", "y"))
    sides = []
    for square, mean in (("xx", x), ("yy", y)):
        spread = graph.add("Div", pick[square], area["area"])
        variance = graph.add("Sub", spread, graph.add("Mul", mean, mean))
        # An ellipse's variance along an axis is a quarter of its semi-axis, squared.
        floored = graph.linear(graph.add("Relu", variance), [[16.0]], [1e-6])
        # The logarithm of the side is half of that of its square.
        sides.append(graph.linear(graph.add("Log", floored), [[0.5]]))
    landmarks = []
    for eye in ("right", "left"):
        landmarks += [graph.add("Div", pick[f"{eye}_{axis}"], area[eye]) for axis in "xy"]
    landmarks += [x, y] * 3
    near = [_at_most_half(graph, each) for each in (x, y)]
    # Like YuNet, it finds faces whose eyes are beside rather than above each other.
    right_x, right_y, left_x, left_y = landmarks[:4]
    across, above = graph.add("Sub", left_x, right_x), graph.add("Sub", left_y, right_y)
    upright = graph.add("Sub", across, graph.add("Abs", above))
    near.append(_clipped(graph, graph.linear(upright, [[40.0]])))
    large = _clipped(graph, graph.linear(pick["area"], [[100.0]], [-1.0]))
    # Two plates in sight do not fill the ellipse around both, of an area of π/4 times its sides.
    filled = graph.add("Concat", graph.add("Log", area["area"]), *sides, axis=1)
    filled = graph.linear(filled, [[20.0, -20.0, -20.0]], [20 * (0.2 - math.log(math.pi / 4))])
    score = large
    for part in (_clipped(graph, filled), *near):
        score = graph.add("Mul", score, part)
    graph.flat(score, "cls_32", 1)
    graph.flat(graph.linear(score, [[0.0]], [1.0]), "obj_32", 1)
    # Boxes and landmarks are counted from the cell's upper left corner.
    box = graph.add("Concat", x, y, *sides, axis=1)
    graph.flat(graph.linear(box, np.eye(4), [0.5, 0.5, 0, 0]), "bbox_32", 4)
    points = graph.add("Concat", *landmarks, axis=1)
    graph.flat(graph.linear(points, np.eye(10), [0.5] * 10), "kps_32", 10)


def _masks(graph):
    """Return how much each pixel is of a plate, of a right eye and of a left eye, in [0, 1]."""
    # The input is blue, green and red, in [0, 255]. Colors are told from gray by their differences.
    pairs = [[0, 1, -1], [0, -1, 1], [1, -1, 0], [-1, 1, 0], [1, 0, -1], [-1, 0, 1]]
    # Red of a right eye over both others, and blue of a left eye.
    hues = [[-0.5, -0.5, 1], [1, -0.5, -0.5]]
    colored = graph.add("Relu", graph.linear("input", pairs + hues))
    mix = np.zeros((3, 8))
    # Half the sum of all differences is the largest of them.
    mix[0, :6], mix[1, 6], mix[2, 7] = 0.5, 1, 1
    return _clipped(graph, graph.linear(colored, mix / 50, [-1.0, -1.0, -1.0]))


def _clipped(graph, value):
    return graph.add("Clip", value, graph.constant(0.0), graph.constant(1.0))


def _at_most_half(graph, value):
    """Return 1 where a value is at most half a cell from the center, and 0 soon beyond."""
    return _clipped(graph, graph.linear(graph.add("Abs", value), [[-40.0]], [40 * 0.55]))


def _moments(graph, masks):
    """Return moments of the masks within reach of each cell, its side being 1."""
    inside = (np.arange(STRIDE) + 0.5) / STRIDE - 0.5
    one, x, y = np.ones((STRIDE, STRIDE)), np.tile(inside, (STRIDE, 1)), inside[:, None]
    y = np.tile(y, (1, STRIDE))
    kinds = [(0, one), (0, x), (0, y), (0, x * x), (0, y * y)]
    kinds += [(mask, each) for mask in (1, 2) for each in (one, x, y)]
    weights = np.zeros((len(kinds), 3, STRIDE, STRIDE))
    for row, (mask, each) in enumerate(kinds):
        weights[row, mask] = each / STRIDE**2
    own = graph.conv(masks, weights, stride=STRIDE)
    size = 2 * REACH + 1
    offset = np.arange(size) - REACH
    dx, dy = np.tile(offset, (size, 1)), np.tile(offset[:, None], (1, size))
    gather = np.zeros((len(kinds), len(kinds), size, size))
    for row in range(len(kinds)):
        gather[row, row] = 1
    # A cell's moments about another cell's center: Σ(x+d) = Σx + dA, Σ(x+d)² = Σx² + 2dΣx + d²A.
    gather[1, 0], gather[2, 0] = dx, dy
    gather[3, 1], gather[3, 0] = 2 * dx, dx**2
    gather[4, 2], gather[4, 0] = 2 * dy, dy**2
    for area in (5, 8):
        gather[area + 1, area], gather[area + 2, area] = dx, dy
    return graph.conv(own, gather, padding=REACH)
