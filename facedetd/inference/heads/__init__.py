"""What turns a model's raw outputs into faces, a module a family. Called by the inference process and by
facedetd.models. Pure: numpy in, numpy out; knows nothing of sessions, files or the ring's slots.
"""

from __future__ import annotations

from facedetd.inference.heads import centerface, yolov5face, yunet
from facedetd.inference.types import Head, ModelError, RawOutputs

__all__ = ["SUPPORTED", "match_head"]

SUPPORTED = (
    "centerface: four outputs [B, 1|2|2|10, H/4, W/4]; "
    "yunet: cls_S, obj_S, bbox_S, kps_S for S = 8, 16, 32 as [B, (H/S)*(W/S), 1|1|4|10]; "
    "yolov5face: three raw levels [B, 3, H/S, W/S, 16], or one decoded output [B, N, 16] with scores in 0-1"
)


def match_head(outputs: RawOutputs, width: int, height: int) -> Head:
    """The head for a model whose probing run at width x height px gave ``outputs``, in the model's own order.

    Raises ModelError with the names and shapes found and those supported.
    """
    head: Head | None
    for matcher in (centerface.match, yunet.match, yolov5face.match):
        head = matcher(outputs, width, height)
        if head is not None:
            return head
    found = ", ".join(f"{name} {list(o.shape)}" for name, o in outputs.items())
    raise ModelError(f"no known head has these outputs at {width}x{height}: {found}. Supported: {SUPPORTED}")
