"""The networks of the frameworks, small, from their configurations, without weights; with batches of two images."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SIZES = {True: ((128, 160), (128, 160)), False: ((128, 160), (104, 130))}
BOXES = torch.tensor([[10.0, 10, 60, 80], [50, 40, 120, 100]])


@dataclasses.dataclass(frozen=True)
class Case:
    """One network and how its framework uses it.

    Args:
        name: shown by pytest.
        build: makes the network.
        batch: `(equal) -> batch` of two images, of one size or of two.
        losses: `(network, batch) -> dict` of losses, in training.
        raw: `(network, batch) -> list` of what its heads return in evaluation, before any selection.
        outputs: `(network, batch)` of the framework, with its post-processing. None: `raw` is all, as for those of
            mmdet that need more than a batch for it (CenterNet) or fail in it by themselves (SSD).
        boxes: whether its batches have boxes.
        padded: whether its batches have padding that the framework tells of.
        compiles: whether `raw` of the plain network compiles to one graph.
        pickles: whether the plain network does, once it has run: transformers may leave local functions in it.
        relative: whether it runs at another scale.
        amp: whether the plain network trains under autocast on a CPU.
        places: whether a blob in the image changes the cells over it most: the tokens of a ViT all see it, and
            CenterNet has a test of its own.
    """

    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[bool], Any]
    losses: Callable[[nn.Module, Any], dict[str, Tensor]]
    raw: Callable[[nn.Module, Any], list[Tensor]]
    outputs: Callable[[nn.Module, Any], Any] | None = None
    boxes: bool = False
    padded: bool = False
    compiles: bool = False
    pickles: bool = True
    relative: bool = False
    amp: bool = True
    places: bool = True


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def flat(value: Any) -> list[Tensor]:
    """The floating-point tensors in nested outputs."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for one in value or () for tensor in flat(one)] if isinstance(value, (list, tuple)) else []


def heads(name: str) -> Callable[[nn.Module, Any, Callable[[], Any]], list[Tensor]]:
    """What the submodule `name` returns while `run` runs the network."""

    def capture(model: nn.Module, run: Callable[[], Any]) -> list[Tensor]:
        caught: list[Tensor] = []
        handle = model.get_submodule(name).register_forward_hook(lambda m, args, output: caught.extend(flat(output)))
        try:
            with torch.no_grad():
                run()
        finally:
            handle.remove()
        return caught

    return capture


# --- torchvision ------------------------------------------------------------------------------------------------------


def _resnet_fpn(levels=(2, 3, 4), extra=None):
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    options = {"trainable_layers": 5, "returned_layers": list(levels), "extra_blocks": extra}
    return resnet_fpn_backbone(backbone_name="resnet18", weights=None, **options)


SMALL = {"min_size": 128, "max_size": 192}


def _retinanet():
    from torchvision.models.detection import RetinaNet
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    return RetinaNet(_resnet_fpn(extra=LastLevelP6P7(256, 256)), 5, score_thresh=0.0, topk_candidates=20, **SMALL)


def _fcos():
    from torchvision.models.detection import FCOS
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    return FCOS(_resnet_fpn(extra=LastLevelP6P7(256, 256)), 5, score_thresh=0.0, topk_candidates=20, **SMALL)


def _faster_rcnn():
    from torchvision.models.detection import FasterRCNN

    few = {"rpn_pre_nms_top_n_train": 30, "rpn_pre_nms_top_n_test": 30, "box_batch_size_per_image": 16}
    return FasterRCNN(_resnet_fpn((1, 2, 3, 4)), 5, **few, **SMALL)


def _mask_rcnn():
    from torchvision.models.detection import MaskRCNN

    few = {"rpn_pre_nms_top_n_train": 30, "rpn_pre_nms_top_n_test": 30, "box_batch_size_per_image": 16}
    few["box_detections_per_img"] = 5  # each is painted into a mask of the image, slowly
    return MaskRCNN(_resnet_fpn((1, 2, 3, 4)), 5, **few, **SMALL)


def _ssd():
    """`ssd300_vgg16` with few channels where its maps are large."""
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD, SSDFeatureExtractorVGG
    from torchvision.models.vgg import make_layers

    backbone = SSDFeatureExtractorVGG(make_layers([8, "M", 16, "M", 32, "M", 512, "M", 512, "M"]), highres=False)
    anchors = DefaultBoxGenerator([[2], [2, 3], [2, 3], [2, 3], [2], [2]], steps=[8, 16, 32, 64, 100, 300])
    return SSD(backbone, anchors, (300, 300), 5, topk_candidates=20, score_thresh=0.0)


def _detection_batch(equal: bool) -> Any:
    images = [torch.rand(3, *size, generator=generator()) for size in SIZES[equal]]
    targets = []
    for (height, width), labels in zip(SIZES[equal], ((1, 2), (3, 1)), strict=True):
        masks = torch.zeros(2, height, width, dtype=torch.uint8)
        masks[:, 20:60, 20:60] = 1
        targets.append({"boxes": BOXES.clone(), "labels": torch.tensor(labels), "masks": masks})
    return images, targets


def _detection_losses(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    images, targets = batch
    return model([i.clone() for i in images], [{k: v.clone() for k, v in t.items()} for t in targets])


def _detector(name: str, build: Callable[[], nn.Module], head: str) -> Case:
    capture = heads(head)
    raw = lambda model, batch: capture(model, lambda: model(batch[0]))  # noqa: E731
    outputs = lambda model, batch: model(batch[0])  # noqa: E731
    kinds = {"boxes": True, "padded": name != "SSD"}
    return Case(f"torchvision {name}", build, _detection_batch, _detection_losses, raw, outputs, **kinds)


def _segmenter(name: str) -> Case:
    def build() -> nn.Module:
        """A ResNet of one block in each stage."""
        from torchvision.models.resnet import Bottleneck, ResNet
        from torchvision.models.segmentation import deeplabv3, fcn

        backbone = ResNet(Bottleneck, [1, 1, 1, 1], replace_stride_with_dilation=[False, True, True])
        make = deeplabv3._deeplabv3_resnet if name == "deeplabv3" else fcn._fcn_resnet
        return make(backbone, 5, True)

    def batch(equal: bool) -> Any:
        labels = torch.randint(0, 5, (2, 128, 160), generator=generator())
        return torch.rand(2, 3, 128, 160, generator=generator()), labels

    def losses(model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {k: nn.functional.cross_entropy(v, batch[1]) for k, v in model(batch[0]).items()}

    def raw(model: nn.Module, batch: Any) -> list[Tensor]:
        return flat(model(batch[0]))

    return Case(f"torchvision {name}", build, batch, losses, raw, compiles=True, relative=True)


# --- transformers -----------------------------------------------------------------------------------------------------

TINY = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_queries": 10,
    "dropout": 0.0,
}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
RESNET = {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 1, 1], "layer_type": "basic"}
PATCHES = {"hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1]}


def _mask_batch(equal: bool) -> dict[str, Tensor]:
    image, mask = torch.rand(2, 3, 128, 160, generator=generator()), torch.ones(2, 128, 160, dtype=torch.long)
    height, width = SIZES[equal][1]
    mask[1, height:] = 0
    mask[1, :, width:] = 0
    return {"pixel_values": image * mask[:, None], "pixel_mask": mask}


def _detr_batch(equal: bool) -> Any:
    boxes = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.6, 0.6, 0.3, 0.2]])
    labels = [{"class_labels": torch.tensor([1, 2]), "boxes": boxes.clone()} for _ in range(2)]
    return {**_mask_batch(equal), "labels": labels}


def _labels_batch(side: int = 160) -> Callable[[bool], Any]:
    def batch(equal: bool) -> Any:
        image = torch.rand(2, 3, 128, side, generator=generator())
        return {"pixel_values": image, "labels": torch.randint(0, 5, (2, 128, side), generator=generator())}

    return batch


def _mask2former_batch(equal: bool) -> Any:
    masks = [(torch.rand(2, 128, 160, generator=generator()) > 0.5).float() for _ in range(2)]
    return {**_mask_batch(equal), "mask_labels": masks, "class_labels": [torch.tensor([0, 1]) for _ in range(2)]}


def _hf_losses(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    torch.manual_seed(3)  # of denoising queries and sampled points
    return {"loss": model(**copy.deepcopy(batch)).loss}


def _hf_raw(*names: str) -> Callable[[nn.Module, Any], list[Tensor]]:
    def raw(model: nn.Module, batch: Any) -> list[Tensor]:
        output = model(**{k: v for k, v in batch.items() if k.startswith("pixel")})
        return [output[name] for name in names]

    return raw


def _hf(name: str, config: Callable[[Any], Any], batch: Any, raw: tuple[str, ...], **options: Any) -> Case:
    def build() -> nn.Module:
        import transformers

        return getattr(transformers, name)(config(transformers))

    return Case(f"transformers {name}", build, batch, _hf_losses, _hf_raw(*raw), relative=True, **options)


def _detr(kind: str, **options: Any) -> Case:
    def config(t: Any) -> Any:
        resnet = t.ResNetConfig(**RESNET, out_features=STAGES)
        plain = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
        return getattr(t, f"{kind}Config")(**plain, backbone_config=resnet, num_labels=4, **TINY, **options)

    kinds = {"boxes": True, "padded": True, "outputs": _hf_outputs}
    return _hf(f"{kind}ForObjectDetection", config, _detr_batch, ("pred_boxes", "logits"), **kinds)


def _hf_outputs(model: nn.Module, batch: Any) -> Any:
    return model(**{k: v for k, v in batch.items() if k.startswith("pixel")})


def _real_time(kind: str) -> Case:
    def config(t: Any) -> Any:
        features = {"out_features": STAGES[1:]}
        if kind == "RTDetr":
            backbone = t.RTDetrResNetConfig(**RESNET, **features)
            channels = [32, 64, 128]
        else:
            backbone = t.HGNetV2Config(
                stem_channels=[3, 8, 16],
                stage_in_channels=[16, 16, 32, 64],
                stage_mid_channels=[8, 8, 16, 16],
                stage_out_channels=[16, 32, 64, 64],
                stage_num_blocks=[1, 1, 1, 1],
                stage_numb_of_layers=[1, 1, 1, 1],
                hidden_sizes=[16, 32, 64, 64],
                depths=[1, 1, 1, 1],
                **features,
            )
            channels = [32, 64, 64]
        options = {"encoder_hidden_dim": 32, "decoder_in_channels": [32, 32, 32], "num_denoising": 4}
        tiny = {**TINY, "num_queries": 20} | {"encoder_in_channels": channels, "anchor_image_size": None}
        return getattr(t, f"{kind}Config")(backbone_config=backbone, num_labels=4, **options, **tiny)

    kinds = {"boxes": True, "padded": True, "outputs": _hf_outputs}
    return _hf(
        f"{kind}ForObjectDetection", config, _detr_batch, ("enc_outputs_class", "enc_outputs_coord_logits"), **kinds
    )


def _segformer(t: Any) -> Any:
    heads = {"num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 32}
    return t.SegformerConfig(**PATCHES, **heads, num_labels=5, drop_path_rate=0.0, classifier_dropout_prob=0.0)


def _upernet(t: Any) -> Any:
    backbone = t.ConvNextConfig(**PATCHES, out_features=STAGES)
    return t.UperNetConfig(backbone_config=backbone, hidden_size=32, num_labels=5, auxiliary_in_channels=32)


def _mask2former(t: Any) -> Any:
    swin = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4], "window_size": 4, "drop_path_rate": 0.0}
    sizes = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 64}
    layers = {"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 4, "dim_feedforward": 64}
    options = {"num_queries": 10, "num_labels": 4, "train_num_points": 256, "dropout": 0.0}
    backbone = t.SwinConfig(**swin, out_features=STAGES)
    return t.Mask2FormerConfig(backbone_config=backbone, **sizes, **layers, **options)


def _dpt(t: Any) -> Any:
    vit = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    necks = {"backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 16, 32, 32], "fusion_hidden_size": 32}
    options = {"image_size": 128, "patch_size": 16, "num_labels": 5, "semantic_classifier_dropout": 0.0}
    return t.DPTConfig(**vit, **necks, **options)


# --- OpenMMLab --------------------------------------------------------------------------------------------------------


def configuration(package: str, path: str) -> Any:
    """The model of one of a package's configurations."""
    import importlib

    from mmengine.config import Config

    return Config.fromfile(Path(importlib.import_module(package).__file__).parent / ".mim" / "configs" / path).model


COUNT = itertools.count()


def openmmlab(package: str, path: str, change: Callable[[Any], None]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import importlib

        from mmengine.logging import MMLogger
        from mmengine.registry import DefaultScope

        importlib.import_module(f"{package}.models")
        DefaultScope.get_instance(str(next(COUNT)), scope_name=package)
        config = configuration(package, path)
        change(config)
        model = importlib.import_module(f"{package}.registry").MODELS.build(config)
        MMLogger.get_current_instance().setLevel("ERROR")  # it tells of every weight
        model.init_weights()
        return model

    return build


def resnet18(config: Any, classes: int = 4) -> None:
    """A detector's small backbone."""
    config.backbone.init_cfg = None
    if config.backbone.type == "ResNet" and config.backbone.depth != 18:
        config.backbone.depth = 18
        config.backbone.style = "pytorch"
        config.neck.in_channels = [64, 128, 256, 512]
    for head in (config.get("bbox_head"), config.get("roi_head", {}).get("bbox_head")):
        if head is not None:
            head.num_classes = classes


def _unpadded(config: Any) -> None:
    resnet18(config)
    config.data_preprocessor.batch_augments = None  # which pad all images to 1024 x 1024


def _ssd_config(config: Any) -> None:
    resnet18(config)
    config.backbone.depth, config.backbone.out_feature_indices = 11, (14, 24)


def _few_proposals(config: Any) -> None:
    resnet18(config)
    config.train_cfg.rpn_proposal.nms_pre = config.test_cfg.rpn.nms_pre = 30
    config.roi_head.bbox_roi_extractor.roi_layer.use_torchvision = True


def mmdet_batch(equal: bool, sizes: Any = None) -> Any:
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    samples, sizes = [], sizes or SIZES[equal]
    for size in sizes:
        known = {"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)}
        sample = DetDataSample(metainfo=known)
        sample.gt_instances = InstanceData(bboxes=BOXES.clone(), labels=torch.tensor([0, 1]))
        samples.append(sample)
    return {"inputs": _uint8(sizes), "data_samples": samples}


def _uint8(sizes: Any) -> list[Tensor]:
    return [torch.randint(0, 255, (3, *size), dtype=torch.uint8, generator=generator()) for size in sizes]


def mmseg_batch(equal: bool) -> Any:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = []
    for size in SIZES[equal]:
        sample = SegDataSample(metainfo={"img_shape": size, "ori_shape": size, "pad_shape": size})
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 19, (1, *size), generator=generator()))
        samples.append(sample)
    return {"inputs": _uint8(SIZES[equal]), "data_samples": samples}


def mmdet3d_batch(equal: bool) -> Any:
    from mmdet3d.structures import CameraInstance3DBoxes, Det3DDataSample
    from mmengine.structures import InstanceData

    samples = []
    camera = [[100.0, 0.0, 80.0, 0.0], [0.0, 100.0, 64.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    for size in SIZES[equal]:
        known = {"img_shape": size, "ori_shape": size, "cam2img": camera, "scale_factor": 1.0}
        sample = Det3DDataSample(metainfo={**known, "box_type_3d": CameraInstance3DBoxes})
        boxes = torch.tensor([[0.0, 0, 10, 4, 2, 2, 0.1, 0, 0], [1, 1, 12, 4, 2, 2, 0.3, 0, 0]])
        sample.gt_instances_3d = InstanceData(
            bboxes_3d=CameraInstance3DBoxes(boxes, box_dim=9),
            labels_3d=torch.tensor([0, 1]),
            centers_2d=torch.tensor([[35.0, 45], [85, 70]]),
            depths=torch.tensor([10.0, 12]),
            attr_labels=torch.tensor([0, 1]),
        )
        sample.gt_instances = InstanceData(bboxes=BOXES.clone(), labels=torch.tensor([0, 1]))
        samples.append(sample)
    return {"inputs": {"img": _uint8(SIZES[equal])}, "data_samples": samples}


def _mm_losses(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    torch.manual_seed(3)  # of samplers
    network = getattr(model, "module", model)
    losses = model(**network.data_preprocessor(copy.deepcopy(batch), True), mode="loss")
    return dict(network.parse_losses(losses)[1])


def _mm_raw(model: nn.Module, batch: Any) -> list[Tensor]:
    return flat(model(**model.data_preprocessor(copy.deepcopy(batch), True), mode="tensor"))  # True: pads


def _mm_outputs(model: nn.Module, batch: Any) -> Any:
    return model(**model.data_preprocessor(copy.deepcopy(batch), False), mode="predict")


def _mmdet(name: str, path: str, change: Callable[[Any], None] = resnet18, **options: Any) -> Case:
    build = openmmlab("mmdet", path, change)
    raw = options.pop("raw", _mm_raw)
    kinds = {"boxes": True, "padded": True, "outputs": _mm_outputs, "batch": mmdet_batch} | options
    return Case(f"mmdet {name}", build, losses=_mm_losses, raw=raw, **kinds)


def _rpn_raw(model: nn.Module, batch: Any) -> list[Tensor]:
    return heads("rpn_head")(model, lambda: _mm_outputs(model, batch))


def _mmseg(name: str) -> Case:
    def change(config: Any) -> None:
        config.pretrained = None
        config.backbone.depth = 18
        config.data_preprocessor.size = (128, 160)
        for part, channels in ((config.decode_head, 512), (config.auxiliary_head, 256)):
            part.in_channels, part.channels, part.dropout_ratio = channels, 32, 0
        if "c1_in_channels" in config.decode_head:
            config.decode_head.c1_in_channels = 64
        for part in (config.backbone, config.decode_head, config.auxiliary_head):
            part.norm_cfg = {"type": "BN"}

    build = openmmlab("mmseg", f"_base_/models/{name}_r50-d8.py", change)
    return Case(f"mmseg {name}", build, mmseg_batch, _mm_losses, _mm_raw, padded=True, relative=True)


def _fcos3d(config: Any) -> None:
    resnet18(config, 10)
    config.backbone.type, config.backbone.depth, config.backbone.style = "mmdet.ResNet", 18, "pytorch"
    config.neck.in_channels = [64, 128, 256, 512]
    config.bbox_head.dcn_on_last_conv = config.test_cfg.use_rotate_nms = False


def _mmdet3d() -> Case:
    build = openmmlab("mmdet3d", "_base_/models/fcos3d.py", _fcos3d)
    return Case("mmdet3d FCOS3D", build, mmdet3d_batch, _mm_losses, _mm_raw, _mm_outputs, boxes=True, padded=True)


def _ssd_batch(equal: bool) -> Any:
    return mmdet_batch(equal, [(300, 300), (300, 300) if equal else (250, 260)])


CASES = [
    _detector("RetinaNet", _retinanet, "head"),
    _detector("FCOS", _fcos, "head"),
    _detector("FasterRCNN", _faster_rcnn, "rpn.head"),
    _detector("MaskRCNN", _mask_rcnn, "rpn.head"),
    _detector("SSD", _ssd, "head"),
    _segmenter("deeplabv3"),
    _segmenter("fcn"),
    _detr("Detr"),
    _detr("ConditionalDetr"),
    _detr("DeformableDetr", num_feature_levels=4),
    _real_time("RTDetr"),
    _real_time("DFine"),
    _hf("SegformerForSemanticSegmentation", _segformer, _labels_batch(), ("logits",), compiles=True, pickles=False),
    _hf("UperNetForSemanticSegmentation", _upernet, _labels_batch(), ("logits",), compiles=True, pickles=False),
    _hf(
        "DPTForSemanticSegmentation", _dpt, _labels_batch(128), ("logits",), compiles=True, pickles=False, places=False
    ),
    _hf(
        "Mask2FormerForUniversalSegmentation",
        _mask2former,
        _mask2former_batch,
        ("masks_queries_logits", "class_queries_logits"),
        padded=True,
        pickles=False,
    ),
    _mmdet("RetinaNet", "retinanet/retinanet_r50_fpn_1x_coco.py"),
    _mmdet("FCOS", "fcos/fcos_r18_fpn_gn-head-center-normbbox-centeronreg-giou_8xb8-amp-lsj-200e_coco.py", _unpadded),
    _mmdet("CenterNet", "centernet/centernet_r18_8xb16-crop512-140e_coco.py", outputs=None, places=False),
    _mmdet("SSD", "_base_/models/ssd300.py", _ssd_config, batch=_ssd_batch, outputs=None),
    _mmdet("FasterRCNN", "_base_/models/faster-rcnn_r50_fpn.py", _few_proposals, raw=_rpn_raw, amp=False),
    _mmseg("fcn"),
    _mmseg("pspnet"),
    _mmseg("deeplabv3plus"),
    _mmdet3d(),
]
