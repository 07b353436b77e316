"""What goes in as one type comes out as that type; and warps in what others put their batches into."""

from __future__ import annotations

import collections
import collections.abc
import copy
import dataclasses
import pickle
import types
from typing import NamedTuple

import pytest
import torch
from helpers import assert_bitwise, random_mesh_warp, random_warp
from torch.utils.data import DataLoader, default_collate

from fastwarp import FastwarpError, MeshWarp, SeparableWarp
from fastwarp.nn import Unzoom

LEVELS = [torch.rand(2, 3, 6, 8), torch.rand(2, 3, 3, 4)]


class Named(NamedTuple):
    p3: torch.Tensor
    p4: torch.Tensor


class Pair(tuple):
    __slots__ = ()


class Listed(list):
    def __init__(self, name: str, values=()) -> None:  # no constructor of a list
        super().__init__(values)
        self.name = name


class Output(collections.OrderedDict):
    """As transformers has them: keys that are attributes, too."""

    def __init__(self, p3, p4) -> None:
        super().__init__(p3=p3, p4=p4)

    def __setitem__(self, key, value) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def __reduce__(self):
        return type(self), tuple(self.values())


class Read(collections.abc.Mapping):
    """A mapping that cannot be written to."""

    def __init__(self, values) -> None:
        self.values_ = dict(values)

    def __getitem__(self, key):
        return self.values_[key]

    def __iter__(self):
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)


def default(*levels):
    result = collections.defaultdict(lambda: 7)
    result.update(zip(("p3", "p4"), levels, strict=True))
    return result


def listed(*levels):
    return Listed("neck", levels)


def keyed(kind):
    return lambda *levels: kind(zip(("p3", "p4"), levels, strict=True))


CONTAINERS = {
    "list": lambda *levels: list(levels),
    "tuple": lambda *levels: levels,
    "namedtuple": Named,
    "tuple's subclass": lambda *levels: Pair(levels),
    "list's subclass": listed,
    "deque": lambda *levels: collections.deque(levels, maxlen=5),
    "UserList": lambda *levels: collections.UserList(levels),
    "dict": keyed(dict),
    "OrderedDict": keyed(collections.OrderedDict),
    "defaultdict": default,
    "dict's subclass": Output,
    "UserDict": keyed(collections.UserDict),
    "Mapping": keyed(Read),
    "mappingproxy": lambda *levels: types.MappingProxyType(dict(zip(("p3", "p4"), levels, strict=True))),
}


def values(container) -> list[torch.Tensor]:
    return list(container.values() if isinstance(container, collections.abc.Mapping) else container)


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("random", [random_warp, random_mesh_warp])
def test_levels_come_back_in_what_they_came_in(name, random):
    warp, make = random(1), CONTAINERS[name]
    levels = make(*LEVELS)
    valid = [torch.tensor([[4, 5], [6, 8]]), torch.tensor([[2, 3], [3, 4]])]
    calls = {
        "unzoom": (warp.unzoom(levels), warp.unzoom(LEVELS)),
        "sizes": (warp.unzoom(levels, make((5, 5), (4, 2))), warp.unzoom(LEVELS, [(5, 5), (4, 2)])),
        "valid": (warp.unzoom(levels, valid=make(*valid)), warp.unzoom(LEVELS, valid=valid)),
        "registered": (
            warp.unzoom(levels, image_size=(12, 16), strides=make(2, 4), phase=make(0.0, 0.5)),
            warp.unzoom(LEVELS, image_size=(12, 16), strides=[2, 4], phase=[0.0, 0.5]),
        ),
        "module": (Unzoom(warp)(levels), warp.unzoom(LEVELS)),
    }
    for got, expected in calls.values():
        assert type(got) is type(levels)
        assert_bitwise(values(got), expected)
    got = warp.unzoom(levels)
    # What else a container has comes along, and what went in stays as it was.
    if name == "list's subclass":
        assert got.name == "neck"
    if name == "deque":
        assert got.maxlen == 5
    if name == "defaultdict":
        assert got["p9"] == 7
    if name == "dict's subclass":
        assert got.p3 is got["p3"]
        assert levels.p3 is LEVELS[0]
    if isinstance(levels, collections.abc.Mapping):
        assert list(got)[:2] == ["p3", "p4"]
    assert all(value is level for value, level in zip(values(levels), LEVELS, strict=True))


def test_what_does_not_follow_the_levels():
    warp, levels = random_warp(1), Output(*LEVELS)
    with pytest.raises(FastwarpError, match=r"size is list, expected a dict with the keys \['p3', 'p4'\]"):
        warp.unzoom(levels, [(5, 5), (4, 2)])
    with pytest.raises(FastwarpError, match=r"size is dict, expected a list or tuple of 2, one for each level"):
        warp.unzoom(LEVELS, {"p3": (5, 5), "p4": (4, 2)})
    for levels in ("p3", b"p3", {LEVELS[0]}):
        with pytest.raises(TypeError, match=r"expected a torch.Tensor \[B, C, H, W\]"):
            warp.unzoom(levels)


@pytest.mark.parametrize("kind", ["dict", "OrderedDict", "list", "tuple", "namedtuple"])
def test_containers_compile(kind):
    torch._dynamo.reset()
    warp, levels = random_warp(1), CONTAINERS[kind](*LEVELS)
    got = torch.compile(lambda x: warp.unzoom(x), backend="eager", fullgraph=True)(levels)
    assert type(got) is type(levels)
    assert_bitwise(values(got), warp.unzoom(LEVELS))


# --- batches of warps -------------------------------------------------------------------------------------------------


def tensors(warp) -> list[torch.Tensor]:
    return [warp.mesh] if isinstance(warp, MeshWarp) else [warp.knots_y, warp.knots_x]


class Samples(torch.utils.data.Dataset):
    """Each sample with a warp of its own."""

    def __init__(self, warp) -> None:
        self.warp = warp

    def __len__(self) -> int:
        return len(self.warp)

    def __getitem__(self, index):
        return {"image": torch.full((1, 2, 2), index), "warp": self.warp[index], "both": (index, self.warp[index])}


def separable(batch=4):
    return random_warp(batch)


def mesh(batch=4):
    return random_mesh_warp(batch, tile="homography")


@pytest.mark.parametrize("make", [separable, mesh])
@pytest.mark.parametrize("workers", [0, 2])
def test_data_loaders_make_batches_of_warps(make, workers):
    warp = make()
    batches = list(DataLoader(Samples(warp), batch_size=2, num_workers=workers))
    assert len(batches) == 2
    for i, batch in enumerate(batches):
        for got in (batch["warp"], batch["both"][1]):
            assert type(got) is type(warp)
            assert_bitwise(tensors(got), tensors(warp[2 * i : 2 * i + 2]))
            if isinstance(warp, MeshWarp):
                assert got.tile == "homography"
    with pytest.raises(FastwarpError, match="cat: warps is of"):
        default_collate([warp, type(warp).identity(1, (3, 3))])


@pytest.mark.parametrize("make", [separable, mesh])
def test_warps_move_as_tensors_do(make, monkeypatch):
    warp = make()
    for moved in (
        warp.to("cpu"),
        warp.to(torch.device("cpu"), non_blocking=True),
        warp.to(device="cpu", dtype=torch.float32),
        warp.to(torch.zeros(1)),
    ):
        assert_bitwise(tensors(moved), tensors(warp))
    for wide in (warp.to(torch.float64), warp.to(dtype=torch.float64), warp.to("cpu", torch.float64)):
        assert all(t.dtype == torch.float64 for t in tensors(wide))
        assert_bitwise(tensors(wide.to(torch.float32)), tensors(warp))
    assert all(t.is_meta for t in tensors(warp.to("meta")))
    with pytest.raises(TypeError, match="has dtype float16"):
        warp.to(torch.float16)
    # No GPU is needed to see that a loader's pinning reaches the tensors.
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: self + 1)
    pinned = torch.utils.data._utils.pin_memory.pin_memory([warp])[0]
    assert type(pinned) is type(warp)
    assert_bitwise(tensors(pinned), [t + 1 for t in tensors(warp)])


@pytest.mark.parametrize("make", [separable, mesh])
def test_warps_are_whole_to_what_takes_containers_apart(make):
    """FSDP's mixed precision and Lightning's transfer of batches look into dataclasses; knots are not to be rounded."""
    from torch.distributed.utils import _cast_forward_inputs

    warp, image = make(), torch.rand(2, 3, 6, 8)
    assert not dataclasses.is_dataclass(warp)
    args, kwargs = _cast_forward_inputs(torch.bfloat16, image, warp, again=[warp])
    assert args[0].dtype == torch.bfloat16
    assert args[1] is warp
    assert kwargs["again"] == [warp]
    for again in (copy.copy(warp), copy.deepcopy(warp), pickle.loads(pickle.dumps(warp))):
        assert_bitwise(tensors(again), tensors(warp))
        assert getattr(again, "tile", None) == getattr(warp, "tile", None)


def test_lightning_moves_batches_with_warps():
    apply = pytest.importorskip("lightning_fabric.utilities.apply_func")
    for warp in (separable(), mesh()):
        batch = {"warp": warp, "more": [warp, 3], "image": torch.rand(1)}
        moved = apply.convert_to_tensors(apply.move_data_to_device(batch, "cpu"), torch.device("cpu"))
        assert type(moved["warp"]) is type(moved["more"][0]) is type(warp)
        assert_bitwise(tensors(moved["warp"]), tensors(warp))
        assert all(t.is_meta for t in tensors(apply.move_data_to_device(batch, torch.device("meta"))["warp"]))


def test_frozen():
    warp = SeparableWarp.identity()
    with pytest.raises(AttributeError):
        warp.knots_y = warp.knots_x
    with pytest.raises(AttributeError):
        MeshWarp.identity().tile = "homography"
