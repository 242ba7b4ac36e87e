"""Image files as uint8 pixels, as they are meant to be seen: upright, opaque, with 8 bits.

`look` reads a file's header, `decode` its pixels. Both refuse what has no such pixels (floats,
channels that are no colours): Pillow would give some.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedgloss.errors import InputError, reason

DEEP = ("I;16", "I;16B", "I;16L", "I")  # "I": PNG in older versions of Pillow, and PGM
GREY = ("1", "L", "LA", *DEEP)
COLOUR = ("P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr")
# TIFF's numbers of what it says about its pixels.
BITS, PHOTOMETRIC, SAMPLES, EXTRA = 258, 262, 277, 338
WHITE_IS_ZERO, UNSPECIFIED = 0, 0


class Look(NamedTuple):
    """What an image's header says.

    Attributes
      grey           or in colour
      deep           grey with more than 8 bits
      width, height  of the upright image
      changes        what `decode` does beyond reading it, in words that follow "5 images"
    """

    grey: bool
    deep: bool
    width: int
    height: int
    changes: tuple[str, ...]


def look(file: Path) -> Look:
    """Read an image's header; InputError for what `decode` could not give the pixels of."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            wrong = _without_pixels(image)
            turn = _orientation(image)
            width, height = image.size
            changes = {
                "of more than 8 bits, of which the upper 8 are kept": image.mode in DEEP,
                "with transparency, laid on white": _transparent(image),
                "turned or mirrored as their EXIF or XMP entry says": turn > 1,
                "in CMYK, converted without a colour profile": image.mode == "CMYK",
                "with several frames or pages, of which the first is kept": _animated(image),
            }
            # Pillow gives grey PNGs of 16 bits with opacity as RGBA.
            grey = image.mode in GREY or _as_in_file(image) == "LA;16B"
            deep = image.mode in DEEP
            sized_upright = image.format == "TIFF"
    except Exception as error:  # Pillow's plugins raise whatever they meet
        raise InputError(f"{file}: cannot be decoded ({_reason(error)})") from None
    if wrong:
        raise InputError(f"{file}: {wrong}")
    if turn >= 5 and not sized_upright:
        width, height = height, width
    return Look(grey, deep, width, height, tuple(words for words in changes if changes[words]))


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not an image, or in a format that must be converted to PNG or JPEG first"
    return reason(error)


def decode(file: Path, mode: str, size: int | None) -> np.ndarray:
    """One image as uint8 [C, H, W]; mode: "L", one channel, or "RGB", three.

    The upper 8 of 16 bits are kept, transparent pixels are laid on white, and the image is turned
    as its EXIF says. With `size`, its shorter side is scaled to `size` (bilinear, antialiased) and
    the middle square is cut out: torchvision's Resize(size) and CenterCrop(size), bit for bit.
    """
    from PIL import Image

    with Image.open(file) as image:
        wrong = _without_pixels(image)
        if wrong:
            raise InputError(f"{file}: {wrong}")
        _scale_transparent_grey(image)
        image.load()
        turn = _orientation(image)  # 1 for a TIFF, which Pillow turns itself
        image = _on_white(_eight_bits(image)).convert(mode)
        if turn > 1:
            image = image.transpose(_turns()[turn])
        if size is not None:
            image = _middle_square(image, size, Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def _without_pixels(image: Any) -> str | None:
    """Why an image has no grey or colour values from black to white, or None if it has."""
    tags = getattr(image, "tag_v2", {})
    # Signed or 32-bit integers, floats, LAB: nothing says which value is black, and which white.
    unscaled = image.mode == "I" and image.format not in ("PNG", "PPM")
    if unscaled or image.mode not in (*GREY, *COLOUR):
        kind = {"I": "integers of 32 bits or with a sign", "F": "floating-point numbers"}
        return (
            f"holds {kind.get(image.mode, f'{image.mode} values')}; only grey, RGB, CMYK or "
            "palette images with 1 to 16 bits can be read"
        )
    # Pillow reads the first three of, say, four satellite bands.
    extra = tags.get(EXTRA, ())
    extra = extra if isinstance(extra, tuple) else (extra,)
    if UNSPECIFIED in extra or tags.get(SAMPLES, 1) > len(image.getbands()):
        return f"has {tags.get(SAMPLES)} channels, some of which are neither colour nor opacity"
    return None


def _transparent(image: Any) -> bool:
    """Whether an image says that some of its pixels may be transparent."""
    alpha = image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info
    return alpha or (image.mode == "P" and image.palette.mode.endswith("A"))


def _animated(image: Any) -> bool:
    # Cameras put previews behind the photograph, as MPO.
    return image.format != "MPO" and getattr(image, "is_animated", False)


def _orientation(image: Any) -> int:
    """The EXIF orientation, 1 to 8; 1, upright, if the entry is not there or broken."""
    from PIL import Image

    try:
        # A PNG's own `getexif` decodes the whole image, to find an entry behind the pixels.
        turn = Image.Image.getexif(image).get(0x0112, 1)
    except Exception:  # photographs with a broken EXIF are common, and upright to all viewers
        return 1
    return turn if turn in _turns() else 1


def _turns() -> dict[int, Any]:
    from PIL.Image import Transpose

    return {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }


def _eight_bits(image: Any) -> Any:
    """The image itself, or the upper 8 of its 16 bits, which Pillow would cut off at 255."""
    from PIL import Image

    if image.mode not in DEEP:
        return image
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    bits = 12 if tags.get(BITS) == (12,) else 16
    grey = (values >> (bits - 8)).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey)


def _as_in_file(image: Any) -> Any:
    """How the pixels of an image that is not loaded lie in its file, in Pillow's words."""
    return image.tile[0][3] if image.tile else None


def _scale_transparent_grey(image: Any) -> None:
    """Bring the transparent value of a grey PNG of 2 or 4 bits to 8 bits, as its pixels will be."""
    if image.mode == "L" and "transparency" in image.info:
        image.info["transparency"] *= {"L;2": 85, "L;4": 17}.get(_as_in_file(image), 1)


def _on_white(image: Any) -> Any:
    """The image itself, or if it has transparency, as one sees it on a white page."""
    from PIL import Image

    if not _transparent(image):
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _middle_square(image: Any, size: int, filter: int) -> Any:
    from PIL import Image

    width, height = image.size
    short = min(width, height)
    if short != size:
        width, height = (size * side // short for side in (width, height))
        if width * height > 2 * (Image.MAX_IMAGE_PIXELS or math.inf):
            raise ValueError(f"scaled to {width} x {height} pixels it would be too large")
        image = image.resize((width, height), filter)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))
