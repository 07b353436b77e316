"""OpenMMLab's Runner trains, averages, saves and resumes a network with a zoom from its configuration alone."""

from __future__ import annotations

import pytest
import torch
from hosts import configuration, mmdet_batch, resnet18
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings
from torch.utils.data import Dataset

from fastwarp import FastwarpError
from fastwarp.saliency import AdaptiveSaliency


class Images(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        batch = mmdet_batch(False)
        return {"inputs": batch["inputs"][index % 2], "data_samples": batch["data_samples"][index % 2]}


def config(saliency, **options) -> Config:
    import mmdet.models  # noqa: F401

    import_modules_from_strings(["fastwarp.openmmlab"])  # what custom_imports does
    model = configuration("mmdet", "retinanet/retinanet_r50_fpn_1x_coco.py")
    resnet18(model)
    return Config({"model": {"type": "FastwarpAttach", "model": model, "saliency": saliency, **options}})


def runner(folder, epochs: int, resume: bool) -> Runner:
    adaptive = {"type": "AdaptiveSaliency", "image_size": (128, 160), "prior": [[1.0] * 51] * 31, "alpha": 0.5}
    loader = {"batch_size": 2, "num_workers": 0, "sampler": {"type": "DefaultSampler", "shuffle": False}}
    return Runner(
        config(adaptive, fwhm=10.0).model,
        str(folder),
        train_dataloader={**loader, "dataset": Images(), "collate_fn": {"type": "pseudo_collate"}},
        train_cfg={"by_epoch": True, "max_epochs": epochs},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 1e-4, "momentum": 0.9}},
        custom_hooks=[{"type": "EMAHook"}],
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1}},
        default_scope="mmdet",
        experiment_name=f"{folder.name}-{epochs}",
        resume=resume,
        log_level="ERROR",
    )


def test_trains_averages_saves_and_resumes(tmp_path):
    first = runner(tmp_path, 1, False)
    model = first.train()
    assert type(model).__name__ == "RetinaNet"
    assert isinstance(model.fastwarp.saliency, AdaptiveSaliency)
    assert model.fastwarp.warp.knots_x.shape == (2, 51)
    second = runner(tmp_path, 2, True)
    second.train()
    assert second.epoch == 2
    state = torch.load(tmp_path / "epoch_2.pth", weights_only=False)
    assert "fastwarp.saliency.prior.saliency" in state["state_dict"]
    assert "module.fastwarp.saliency.prior.saliency" in state["ema_state_dict"]


def test_maps_hosts_and_what_is_wrong():
    from mmdet.registry import MODELS
    from mmengine.registry import DefaultScope

    DefaultScope.get_instance("test_maps", scope_name="mmdet")
    fixed = MODELS.build(config([[1.0, 2.0, 1.0]] * 3, fwhm=2.0).model)
    assert fixed.fastwarp.knots_x.shape == (1, 3)
    saliency = {"type": "FixedSaliency", "saliency": [[1.0, 2.0, 1.0]] * 3}
    own = MODELS.build(config(saliency, host={"zoom": "backbone", "unzoom": "backbone"}, fwhm=2.0).model)
    assert own.fastwarp.host.unzoom == "backbone"
    assert torch.equal(own.fastwarp.knots_x, fixed.fastwarp.knots_x)
    with pytest.raises(FastwarpError, match="saliency has type='Fixed', expected one of AdaptiveSaliency, DownsizeNet"):
        MODELS.build(config({"type": "Fixed"}).model)
