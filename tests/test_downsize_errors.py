"""What downsize, relative_distance and downsize_boxes say of bad input."""

import pytest
import torch

from fastwarp import FastwarpError
from fastwarp import functional as F  # noqa: F401  (the calls below are evaluated)

# The names that the calls below are made of.
IMAGE = torch.rand(2, 3, 8, 9)
W, B = [torch.rand(5, 3, 3, 3)], [torch.rand(5)]
FUSE, BIAS = torch.rand(4, 9), torch.rand(4)
EYE = torch.eye(4)
BOXES = [torch.rand(1, 4)] * 2
META = torch.rand(4, 9, device="meta")

Value, Type = FastwarpError, TypeError

BAD = [
    ("F.downsize(3, W, B, FUSE, BIAS, (4, 4))", Type, "downsize: image is int, expected a torch.Tensor [B, C, H, W]"),
    ("F.downsize(IMAGE[0], W, B, FUSE, BIAS, (4, 4))", Value, "downsize: image is of shape [3, 8, 9], expected 4 dim"),
    ("F.downsize(IMAGE.byte(), W, B, FUSE, BIAS, (4, 4))", Type, "downsize: image has dtype uint8, expected float16"),
    ("F.downsize(IMAGE.long(), W, B, FUSE, BIAS, (4, 4))", Type, "downsize: image has dtype int64, expected float16"),
    (
        "F.downsize(IMAGE[:, :0], [], [], EYE, None, (4, 4))",
        Value,
        "downsize: image is of shape [2, 0, 8, 9], expected",
    ),
    ("F.downsize(IMAGE[:, :, :0], W, B, FUSE, BIAS, (4, 4))", Value, "downsize: image is of shape [2, 3, 0, 9]"),
    (
        "F.downsize(IMAGE, W, B, FUSE, BIAS, (0, 4))",
        Value,
        "downsize: size is (0, 4), expected a height and a width of",
    ),
    ("F.downsize(IMAGE, W, B, FUSE, BIAS, 4)", Type, "downsize: size is 4, expected two integers (height, width)"),
    ("F.downsize(IMAGE, W, B, FUSE, BIAS, (4.0, 4))", Type, "downsize: size is (4.0, 4), expected two integers"),
    ("F.downsize(IMAGE, W, B, FUSE, BIAS, (2**20, 2**20))", Value, "downsize: size is (1048576, 1048576), which takes"),
    ("F.downsize(IMAGE, W, B, FUSE, BIAS, (2**31, 2**31))", Value, "GiB, expected no more than the"),
    ("F.downsize(IMAGE, W[0], B, FUSE, BIAS, (4, 4))", Type, "downsize: weights is Tensor, expected a list of tensors"),
    ("F.downsize(IMAGE, W, [], FUSE, BIAS, (4, 4))", Value, "downsize: biases is 0 long, expected one for each of 1"),
    ("F.downsize(IMAGE, W * 6, B * 6, FUSE, BIAS, (4, 4))", Value, "downsize: weights is 6 long, expected at most 5"),
    ("F.downsize(IMAGE, [None], B, FUSE, BIAS, (4, 4))", Type, "downsize: weights[0] is NoneType, expected a torch."),
    ("F.downsize(IMAGE, W, [None], FUSE, BIAS, (4, 4))", Type, "downsize: biases[0] is NoneType, expected a torch."),
    (
        "F.downsize(IMAGE[:, :1], W, B, FUSE, BIAS, (4, 4))",
        Value,
        "downsize: weights[0] is of shape [5, 3, 3, 3], expected [F, 1, 3, 3]",
    ),
    (
        "F.downsize(IMAGE, W * 2, B * 2, FUSE, BIAS, (4, 4))",
        Value,
        "downsize: weights[1] is of shape [5, 3, 3, 3], expected [F, 5, 3, 3]",
    ),
    (
        "F.downsize(IMAGE, [W[0][..., :1]], B, FUSE, BIAS, (4, 4))",
        Value,
        "downsize: weights[0] is of shape [5, 3, 3, 1], expected [F, 3, 3, 3]",
    ),
    (
        "F.downsize(IMAGE, W, [B[0][:3]], FUSE, BIAS, (4, 4))",
        Value,
        "downsize: biases[0] is of shape [3], expected [5]",
    ),
    ("F.downsize(IMAGE, [W[0].long()], B, FUSE, BIAS, (4, 4))", Type, "downsize: weights[0] has dtype int64"),
    (
        "F.downsize(IMAGE, W, [B[0].double()], FUSE, BIAS, (4, 4))",
        Type,
        "downsize: biases[0] is torch.float64, fuse_weight is torch.float32, expected one dtype",
    ),
    (
        "F.downsize(IMAGE, W, B, FUSE.half(), BIAS, (4, 4))",
        Type,
        "downsize: weights[0] is torch.float32, fuse_weight is",
    ),
    (
        "F.downsize(IMAGE, W, B, FUSE[:3], BIAS[:3], (4, 4))",
        Value,
        "downsize: fuse_weight is of shape [3, 9], expected [4, 9]: 2 x 2 taps from 5 features and 4 distances",
    ),
    (
        "F.downsize(IMAGE, [], [], FUSE, BIAS, (4, 4))",
        Value,
        "expected [4, 4]: 2 x 2 taps from 0 features and 4 distances",
    ),
    ("F.downsize(IMAGE, W, B, FUSE, BIAS, (4, 4), encoding=None)", Value, "from 5 features and 0 distances"),
    (
        "F.downsize(IMAGE, W, B, FUSE, BIAS, (4, 4), taps='bicubic')",
        Value,
        "downsize: fuse_weight is of shape [4, 9], expected [16, 21]: 4 x 4 taps",
    ),
    (
        "F.downsize(IMAGE, W, B, FUSE, BIAS, (4, 4), taps='area')",
        Value,
        "downsize: fuse_weight is of shape [4, 9], expected [6, 11]: 2 x 3 taps",
    ),
    ("F.downsize(IMAGE, W, B, FUSE[0], BIAS, (4, 4))", Value, "downsize: fuse_weight is of shape [9], expected 2 dim"),
    ("F.downsize(IMAGE, W, B, FUSE, BIAS[:3], (4, 4))", Value, "downsize: fuse_bias is of shape [3], expected [4]"),
    (
        "F.downsize(IMAGE, [], [], torch.rand(4, 0), BIAS, (4, 4), encoding=None)",
        Value,
        "downsize: got no convolutions and no distances, expected at least one of them",
    ),
    (
        "F.downsize(IMAGE, W, B, META, BIAS, (4, 4))",
        Value,
        "got image on cpu, fuse_weight on meta, expected all on one",
    ),
    (
        "F.downsize(IMAGE, W, B, FUSE, BIAS, (4, 4), taps='linear')",
        Value,
        "downsize: taps is 'linear', expected 'bilinear'",
    ),
    ("F.downsize(IMAGE, W, B, FUSE, BIAS, (4, 4), normalise='sum')", Value, "downsize: normalise is 'sum', expected"),
    (
        "F.downsize(IMAGE, W, B, FUSE, BIAS, (4, 4), encoding='log')",
        Value,
        "downsize: encoding is 'log', expected 'exact'",
    ),
    (
        "F.downsize(IMAGE, W, B, FUSE, BIAS, (4, 4), encoding=lambda x, y: 3)",
        Type,
        "downsize: encoding returned int, expected a torch.Tensor [K', h, w]",
    ),
    (
        "F.downsize(IMAGE, W, B, FUSE, BIAS, (4, 4), encoding=lambda x, y: x * y)",
        Value,
        "downsize: encoding is a function to shape [4, 4], expected one to [K', 4, 4]",
    ),
    (
        "F.downsize(IMAGE, W, B, FUSE, BIAS, (4, 4), encoding=lambda x, y: (x * y).expand(4, 4, 4).to('meta'))",
        Value,
        "downsize: got image on cpu, encoding on meta, expected all on one device",
    ),
    (
        "F.downsize(IMAGE, W, B, FUSE, BIAS, (4, 4), footprint=2)",
        Value,
        "downsize: footprint is 2, expected None with taps='bilinear'",
    ),
    (
        "F.downsize(IMAGE, W, B, FUSE, BIAS, (4, 4), taps='area', footprint=2)",
        Value,
        "downsize: footprint is (2, 2), expected at least (2, 3) taps (rows, columns) from (8, 9) to (4, 4)",
    ),
    (
        "F.downsize(IMAGE, W, B, FUSE, BIAS, (4, 4), taps='area', footprint=0)",
        Value,
        "footprint is 0, expected at least",
    ),
    (
        "F.downsize(IMAGE, W, B, FUSE, BIAS, (4, 4), taps='area', footprint='a')",
        Type,
        "footprint is 'a', expected a num",
    ),
    (
        "F.downsize(IMAGE, W, B, FUSE, BIAS, (4, 4), taps='area', align_corners=True)",
        Value,
        "downsize: align_corners is True, expected False with taps='area'",
    ),
    ("F.downsize(IMAGE, W, B, FUSE, BIAS, (4, 4), mean=(0.5,))", Value, "downsize: mean is 1 long, expected one value"),
    (
        "F.downsize(IMAGE, W, B, FUSE, BIAS, (4, 4), std=(1, 0, 1))",
        Value,
        "downsize: std is [1, 0, 1], expected values",
    ),
    (
        "F.downsize(IMAGE, W, B, FUSE, BIAS, (4, 4), mean=0.5)",
        Type,
        "downsize: mean is 0.5, expected one number for each",
    ),
    # --- relative_distance
    ("F.relative_distance(4, (8, 8))", Type, "relative_distance: size is 4, expected two integers"),
    ("F.relative_distance((4, 4), (8, 0))", Value, "relative_distance: source_size is (8, 0), expected a height and"),
    ("F.relative_distance((4, 4), (8, 8), taps='cubic')", Value, "relative_distance: taps is 'cubic', expected"),
    (
        "F.relative_distance((4, 4), (8, 8), dtype=torch.int32)",
        Type,
        "relative_distance: dtype is torch.int32, expected",
    ),
    (
        "F.relative_distance((4, 4), (9, 8), taps='area', footprint=(2, 2))",
        Value,
        "relative_distance: footprint is (2, 2), expected at least (3, 2) taps",
    ),
    (
        "F.relative_distance((2**24, 2**24), (8, 8))",
        Value,
        "relative_distance: size is (16777216, 16777216), which takes",
    ),
    # --- downsize_boxes
    (
        "F.downsize_boxes(IMAGE[0], BOXES, W, B, FUSE, BIAS, (2, 2))",
        Value,
        "downsize_boxes: features is of shape [3, 8",
    ),
    (
        "F.downsize_boxes(IMAGE.byte(), BOXES, W, B, FUSE, BIAS, (2, 2))",
        Type,
        "downsize_boxes: features has dtype uint8",
    ),
    ("F.downsize_boxes(IMAGE[:, :, :0], BOXES, W, B, FUSE, BIAS, (2, 2))", Value, "features is of shape [2, 3, 0, 9]"),
    ("F.downsize_boxes(IMAGE, BOXES[:1], W, B, FUSE, BIAS, (2, 2))", Value, "boxes is 1 long, expected one [N, 4] for"),
    ("F.downsize_boxes(IMAGE, 3, W, B, FUSE, BIAS, (2, 2))", Type, "downsize_boxes: boxes is int, expected a list of"),
    ("F.downsize_boxes(IMAGE, BOXES[0], W, B, FUSE, BIAS, (2, 2))", Value, "boxes is of shape [1, 4], expected [N, 5]"),
    (
        "F.downsize_boxes(IMAGE, [FUSE, FUSE], W, B, FUSE, BIAS, (2, 2))",
        Value,
        "boxes[0] is of shape [4, 9], expected [N",
    ),
    ("F.downsize_boxes(IMAGE, [BOXES[0].long()] * 2, W, B, FUSE, BIAS, (2, 2))", Type, "boxes[0] has dtype int64"),
    (
        "F.downsize_boxes(IMAGE, [META[:, :4]] * 2, W, B, FUSE, BIAS, (2, 2))",
        Value,
        "downsize_boxes: got features on cpu, boxes[0] on meta, expected all on one device",
    ),
    (
        "F.downsize_boxes(IMAGE, torch.tensor([[2.0, 0, 0, 3, 3]]), W, B, FUSE, BIAS, (2, 2))",
        Value,
        "downsize_boxes: boxes[:, 0] is 2, expected numbers of images in 0 .. 1",
    ),
    ("F.downsize_boxes(IMAGE, torch.tensor([[-1.0, 0, 0, 3, 3]]), W, B, FUSE, BIAS, (2, 2))", Value, "is -1, expected"),
    ("F.downsize_boxes(IMAGE, BOXES, W, B, FUSE, BIAS, (0, 2))", Value, "downsize_boxes: size is (0, 2), expected"),
    ("F.downsize_boxes(IMAGE, BOXES, W, B, FUSE, BIAS, (2**20, 2**20))", Value, "downsize_boxes: size is (1048576"),
    (
        "F.downsize_boxes(IMAGE, BOXES, W, B, FUSE[:2], BIAS[:2], (2, 2))",
        Value,
        "fuse_weight is of shape [2, 9], expect",
    ),
    ("F.downsize_boxes(IMAGE, BOXES, W, B, FUSE, BIAS, (2, 2), normalise='')", Value, "normalise is '', expected"),
    ("F.downsize_boxes(IMAGE, BOXES, W, B, FUSE, BIAS, (2, 2), encoding='')", Value, "encoding is '', expected"),
    (
        "F.downsize_boxes(IMAGE, BOXES, W, B, FUSE, BIAS, (2, 2), spatial_scale=0)",
        Value,
        "spatial_scale is 0, expected",
    ),
    (
        "F.downsize_boxes(IMAGE, BOXES, W, B, FUSE, BIAS, (2, 2), spatial_scale='')",
        Type,
        "spatial_scale is '', expected",
    ),
    ("F.downsize_boxes(IMAGE, BOXES, W, B, FUSE, BIAS, (2, 2), mean=(1, 2))", Value, "downsize_boxes: mean is 2 long"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_input(call, error, message):
    with pytest.raises(error) as caught:
        eval(call)
    assert message in str(caught.value)
    assert type(caught.value) in (FastwarpError, TypeError)
