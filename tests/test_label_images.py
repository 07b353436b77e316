"""Label images in every form that tools and file systems produce: each is read right or refused by name."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastwarp.errors import FastwarpError
from fastwarp.saliency import cityscapes
from fastwarp.saliency.cityscapes import cityscapes_prior
from fastwarp.saliency.labels import boundary_density

ROAD, SIDEWALK, CAR = 7, 8, 26
IDS = np.kron(np.array([[ROAD, SIDEWALK, ROAD], [CAR, ROAD, CAR]], np.uint8), np.ones((8, 10), np.uint8))
NAME = "aachen_000000_000019_gtFine_labelIds.png"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(ids: np.ndarray, bits: int, *, colour: int = 0, interlaced: bool = False, extra: bytes = b"") -> bytes:
    """A PNG of samples `[H, W]` in so many bits, by the specification: no library writes all of them."""
    height, width = ids.shape
    lines = []
    # Adam7: seven pictures of every so many-th pixel.
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    for top, left, down, right in passes if interlaced else [(0, 0, 1, 1)]:
        part = ids[top::down, left::right]
        for row in part if part.size else []:
            if bits == 16:
                packed = row.astype(">u2").tobytes()
            else:
                digits = (row[:, None] >> np.arange(bits - 1, -1, -1)) & 1
                packed = np.packbits(digits.astype(np.uint8).ravel()).tobytes()
            lines.append(b"\0" + packed)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
    body = chunk(b"IDAT", zlib.compress(b"".join(lines)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + body + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def city(tmp_path: Path) -> Path:
    folder = tmp_path / "gtFine" / "train" / "aachen"
    folder.mkdir(parents=True)
    return folder


def prior(city: Path) -> torch.Tensor:
    return cityscapes_prior(city.parents[2], (4, 6)).saliency


EXPECTED = boundary_density(torch.from_numpy(IDS), (4, 6))[0]
PALETTE = chunk(b"PLTE", bytes(range(96)))

READ = {
    "8 bits": png(IDS, 8),
    "16 bits": png(IDS, 16),
    "interlaced": png(IDS, 8, interlaced=True),
    "interlaced, 16 bits": png(IDS, 16, interlaced=True),
    "Pillow": saved(Image.fromarray(IDS), "PNG"),
    "Pillow, 16 bits": saved(Image.fromarray(IDS.astype(np.uint16)), "PNG"),
    "with a transparent value": png(IDS, 8, extra=chunk(b"tRNS", b"\0\7")),
    "with gamma and text": png(IDS, 8, extra=chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"tEXt", b"a\0b")),
}


@pytest.mark.parametrize("form", READ)
def test_read(city, form):
    (city / NAME).write_bytes(READ[form])
    assert torch.equal(prior(city), EXPECTED)


grey, colours = Image.fromarray(IDS), Image.fromarray(np.stack([IDS] * 3, 2))
CHANNEL = "expected label ids in one grey channel of 8 or 16 bits"
REFUSED = {
    "1 bit": (png(IDS % 2, 1), f"has pixels of grey in 1 bits, {CHANNEL}"),
    "2 bits": (png(IDS % 4, 2), f"has pixels of grey in 2 bits, {CHANNEL}"),
    "4 bits": (png(IDS % 16, 4), f"has pixels of grey in 4 bits, {CHANNEL}"),
    "4 bits, interlaced": (png(IDS % 16, 4, interlaced=True), f"has pixels of grey in 4 bits, {CHANNEL}"),
    "palette": (png(IDS, 8, colour=3, extra=PALETTE), f"has pixels of a palette in 8 bits, {CHANNEL}"),
    "palette, 4 bits": (png(IDS % 16, 4, colour=3, extra=PALETTE), f"has pixels of a palette in 4 bits, {CHANNEL}"),
    "RGB": (saved(colours, "PNG"), f"has pixels of red, green and blue in 8 bits, {CHANNEL}"),
    "RGBA": (saved(colours.convert("RGBA"), "PNG"), f"has pixels of colours and alpha in 8 bits, {CHANNEL}"),
    "LA": (saved(grey.convert("LA"), "PNG"), f"has pixels of grey and alpha in 8 bits, {CHANNEL}"),
    "unknown colours": (png(IDS, 8, colour=9), f"has pixels of an unknown kind in 8 bits, {CHANNEL}"),
    "instance ids": (png(IDS.astype(np.uint16) * 1000, 16), "has label ids up to 26000, expected at most 255"),
    "animated": (
        saved(grey, "PNG", save_all=True, append_images=[Image.fromarray(IDS[::-1].copy())]),
        "is an animation of 2 images, expected one",
    ),
    "JPEG": (saved(grey, "JPEG"), "is not a PNG image"),
    "TIFF": (saved(grey, "TIFF"), "is not a PNG image"),
    "GIF": (saved(grey, "GIF"), "is not a PNG image"),
    "BMP": (saved(grey, "BMP"), "is not a PNG image"),
    "empty": (b"", "is not a PNG image"),
    "signature": (READ["8 bits"][:8], "is not a PNG image"),
    "header": (READ["8 bits"][:26], "cannot read "),
    "cut": (READ["8 bits"][:-30], "cannot read "),
    "checksum": (READ["8 bits"].replace(b"IEND\xaeB`\x82", b"").replace(b"IDAT", b"IDAT\1"), "cannot read "),
    "no pixels": (png(np.zeros((0, 5), np.uint8), 8), "cannot read "),
    "half a billion pixels": (
        READ["8 bits"][:16] + struct.pack(">II", 30_000, 20_000) + READ["8 bits"][24:],
        "has 20000 x 30000 pixels, expected at most 67108864 in all",
    ),
    "text bomb": (
        png(IDS, 8, extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26)))),
        "cannot read ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", REFUSED)
def test_refused(city, form):
    content, message = REFUSED[form]
    path = city / NAME
    path.write_bytes(content)
    with pytest.raises(FastwarpError) as caught:
        prior(city)
    text = str(caught.value)
    assert text.startswith(f"cannot read {path}: " if message == "cannot read " else f"{path} {message}"), text
    assert "\n" not in text


def test_what_lies_beside_label_images_is_passed_over(city):
    (city / NAME).write_bytes(READ["8 bits"])
    for stray in (f"._{NAME}", f".{NAME}.swp", "Thumbs.db", "desktop.ini", ".DS_Store", f"{NAME}.part", f"{NAME}~"):
        (city / stray).write_bytes(b"\0\5\26\7")
    (city / "aachen_000000_000019_gtFine_instanceIds.png").write_bytes(png(IDS, 16))
    (city.parent / ".ipynb_checkpoints").mkdir()
    (city.parent / ".ipynb_checkpoints" / NAME).write_bytes(b"an older one")
    (city.parent / "__MACOSX").mkdir()
    (city.parent / "__MACOSX" / f"._{NAME}").write_bytes(b"\0\5\26\7")
    (city.parent / "README.txt").write_text("no city")
    (city.parent / "loop").symlink_to("loop")
    (city.parent / "again").symlink_to("..", target_is_directory=True)
    assert torch.equal(prior(city), EXPECTED)


def test_upper_case_and_links_are_read(city):
    flipped = np.ascontiguousarray(IDS[::-1])
    (city / NAME.upper()).write_bytes(READ["8 bits"])
    (city.parents[2] / "elsewhere.png").write_bytes(png(flipped, 8))
    (city / f"linked_{NAME}").symlink_to(city.parents[2] / "elsewhere.png")
    both = torch.stack([EXPECTED, boundary_density(torch.from_numpy(flipped), (4, 6))[0]])
    torch.testing.assert_close(prior(city), both.mean(0))


def test_what_is_no_file_is_named(city):
    path = city / NAME

    def problem() -> str:
        with pytest.raises(FastwarpError) as caught:
            prior(city)
        return str(caught.value)

    path.mkdir()
    assert problem() == f"cannot read {path}: Is a directory"
    path.rmdir()
    os.mkfifo(path)
    assert problem() == f"cannot read {path}: it is not a regular file"
    path.unlink()
    path.symlink_to("/dev/zero")
    assert problem() == f"cannot read {path}: it is not a regular file"
    path.unlink()
    path.symlink_to(NAME)
    assert problem() == f"cannot read {path}: Too many levels of symbolic links"
    path.unlink()
    path.symlink_to("gone.png")
    assert problem() == f"cannot read {path}: No such file or directory"


def test_folders_that_must_not_be_read_are_named(city, monkeypatch):
    (city / NAME).write_bytes(READ["8 bits"])
    listing = os.listdir

    def guarded(folder: Path) -> list[str]:
        if Path(folder) == city:
            raise PermissionError(13, "Permission denied")
        return listing(folder)

    monkeypatch.setattr(cityscapes.os, "listdir", guarded)  # root may read everything
    with pytest.raises(FastwarpError, match=rf"^cannot read {city}: Permission denied$"):
        prior(city)
