"""The flags of ``fer export``."""

from dataclasses import dataclass

from ray_jobs.config.types import BUNDLED, Location, OptionalLocation
from ray_jobs.flag_help import with_help


@with_help
@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Export a checkpoint to an ONNX file and compare its predictions with the checkpoint's."""

    output: Location
    """Folder or URI where model.onnx is written, and graph.int8.onnx with --int8."""
    checkpoint: Location = BUNDLED
    """Folder, URI or shipped name of the checkpoint to export."""
    int8: OptionalLocation = None
    """Folder or URI of the dataset that the network learned from. With it, the network is also
    written in 8-bit integers, as graph.int8.onnx. label and serve run it once it is in the folder
    of the checkpoint. By default it is not written."""
    overwrite: bool = False
    """Replace the export that --output already holds."""
