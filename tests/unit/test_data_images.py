"""Kinds of image files: each is stored with the right values, or refused in one line.

Every test prepares a folder that holds an image of the kind, as a user would.
"""

import io
import json
import struct
import zlib

import numpy as np
import pytest

from fedgloss.data.dataset import load, prepare
from refusal import refused

Image = pytest.importorskip("PIL.Image")

HEIGHT, WIDTH = 4, 8
RNG = np.random.default_rng(0)


def noise(bits, *channels):
    return RNG.integers(0, 2**bits, (HEIGHT, WIDTH, *channels))


GREY, RGB, OPACITY = noise(8), noise(8, 3), noise(8)
GREY2, GREY4, GREY12, GREY16 = noise(2), noise(4), noise(12), noise(16)
PALETTE = RNG.integers(0, 256, (4, 3))


def white_where(transparent, pixels):
    """Pixels with white in the place of some."""
    pixels = np.array(pixels)
    pixels[transparent] = 255
    return pixels


def on_white(pixels, opacity):
    share = opacity.reshape(*opacity.shape, *[1] * (pixels.ndim - 2)) / 255
    return pixels * share + 255 * (1 - share)


# Files


def by_pillow(pixels, kind, mode=None, **options):
    """A file's bytes; 16-bit pixels stay so."""
    image = Image.fromarray(pixels.astype(np.uint16 if pixels.max() > 255 else np.uint8))
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def png(pixels, bits, colours, *chunks):
    """A PNG file by the format's definition; colours: 0 grey, 2 RGB, 3 palette, 4 and 6 alpha."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colours, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row for row in packed(pixels, bits)))
    parts = [(b"IHDR", head), *chunks, (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def packed(pixels, bits):
    """The bytes of each row, the highest bit of each value first."""
    binary = (pixels.reshape(HEIGHT, -1, 1) >> np.arange(bits - 1, -1, -1)) & 1
    return [np.packbits(row.astype(np.uint8)).tobytes() for row in binary]


def transparent(*values):
    """PNG's entry for one value or colour that is transparent."""
    return b"tRNS", struct.pack(f">{len(values)}H", *map(int, values))


def tiff(data, bits, samples=1, white_is_zero=False, more=()):
    """A little-endian TIFF file by the format's definition; more: further entries."""
    data += b"\0" * (len(data) % 2)
    photometric = 0 if white_is_zero else 1 if samples == 1 else 2
    entries = [(256, [WIDTH]), (257, [HEIGHT]), (258, [bits] * samples), (259, [1])]
    entries += [(262, [photometric]), (273, [8]), (277, [samples]), (278, [HEIGHT])]
    entries += [(279, [len(data)]), *more]
    behind = 8 + len(data) + 2 + 12 * len(entries) + 4
    table, longer = struct.pack("<H", len(entries)), b""
    for tag, values in entries:
        value = struct.pack(f"<{len(values)}H", *values)
        if len(value) > 4:
            longer, value = longer + value, struct.pack("<I", behind + len(longer))
        table += struct.pack("<HHI", tag, 3, len(values)) + value.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + table + bytes(4) + longer


def little(pixels):
    return pixels.astype("<u2").tobytes()


def big(pixels):
    return pixels.astype(">u2").tobytes()


# Folders


def stored(tmp_path, *files):
    """What `prepare` stores of these files, in order, as [H, W] or [H, W, 3]; and the notes."""
    for place in ("train", "test"):
        for number, content in enumerate(files):
            file = tmp_path / "kinds" / place / "a" / f"{number}.png"  # Pillow looks at the content
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    prepare("folder", tmp_path / "out", root=tmp_path / "kinds")
    data = load(tmp_path / "out", verify=True)
    notes = json.loads((tmp_path / "out/manifest.json").read_text())["notes"]
    images = data.train_images.permute(0, 2, 3, 1).numpy().astype(int)
    return [image[..., 0] if image.shape[2] == 1 else image for image in images], notes


# What is read


SAME = {
    "grey png": (by_pillow(GREY, "PNG"), GREY),
    "black and white png": (png(GREY >> 7, 1, 0), (GREY >> 7) * 255),
    "png of 2 bits": (png(GREY2, 2, 0), GREY2 * 85),
    "png of 4 bits": (png(GREY4, 4, 0), GREY4 * 17),
    "png of 16 bits": (png(GREY16, 16, 0), GREY16 >> 8),
    "colour png of 16 bits": (png(RGB * 257, 16, 2), RGB),
    "palette png of 2 bits": (
        png(GREY2, 2, 3, (b"PLTE", PALETTE.astype(np.uint8).tobytes())),
        PALETTE[GREY2],
    ),
    "black and white pbm": (
        b"P4 8 4\n" + b"".join(packed(GREY >> 7, 1)),
        255 - (GREY >> 7) * 255,
    ),
    "pgm of 4 bits": (b"P5 8 4 15\n" + GREY4.astype(np.uint8).tobytes(), GREY4 * 17),
    "pgm of 10 bits": (b"P5 8 4 1023\n" + big(GREY16 >> 6), GREY16 >> 8),
    "pgm of 16 bits": (b"P5 8 4 65535\n" + big(GREY16), GREY16 >> 8),
    "colour ppm of 16 bits": (b"P6 8 4 65535\n" + big(RGB * 257), RGB),
    "jpeg 2000 of 16 bits": (by_pillow(GREY16, "JPEG2000"), GREY16 >> 8),
    "tiff of 16 bits": (tiff(little(GREY16), 16), GREY16 >> 8),
    "compressed tiff of 16 bits": (
        by_pillow(GREY16, "TIFF", compression="tiff_lzw"),
        GREY16 >> 8,
    ),
    "big-endian tiff of 16 bits": (by_pillow(GREY16, "TIFF", big_endian=True), GREY16 >> 8),
    "tiff of 16 bits with white 0": (
        tiff(little(GREY16), 16, white_is_zero=True),
        255 - (GREY16 >> 8),
    ),
    "tiff of 8 bits with white 0": (
        tiff(GREY.astype(np.uint8).tobytes(), 8, white_is_zero=True),
        255 - GREY,
    ),
    "tiff of 12 bits": (tiff(b"".join(packed(GREY12, 12)), 12), GREY12 >> 4),
    "colour tiff of 16 bits": (tiff(little(RGB * 257), 16, samples=3), RGB),
    "cmyk tiff": (by_pillow(RGB, "TIFF", "CMYK"), RGB),
    "bmp": (by_pillow(RGB, "BMP"), RGB),
    "tga": (by_pillow(RGB, "TGA"), RGB),
    "webp": (by_pillow(RGB, "WEBP", lossless=True), RGB),
}


@pytest.mark.parametrize("kind", SAME)
def test_values_are_those_of_the_file(tmp_path, kind):
    content, pixels = SAME[kind]
    (image,), _ = stored(tmp_path, content)
    assert np.array_equal(image, pixels)


def test_a_jpeg_in_cmyk_is_nearly_its_picture(tmp_path):
    smooth = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH))[..., None] * [20, 15, 10]
    (image,), notes = stored(tmp_path, by_pillow(smooth, "JPEG", "CMYK", quality=100))
    assert np.abs(image - smooth).max() < 8
    assert notes[0] == "2 of 2 images in CMYK, converted without a colour profile"


def test_that_16_bits_became_8_is_said_with_the_values_there_are(tmp_path):
    """12 bits in a file of 16 leave a picture that is almost black, which its owner should know."""
    _, notes = stored(tmp_path, png(GREY12, 16, 0), png(GREY, 8, 0))
    assert "2 of 4 images of more than 8 bits, of which the upper 8 are kept" in notes
    _, notes = stored(tmp_path, png(GREY12, 16, 0), png(GREY12, 16, 0))
    low, high = GREY12.min() >> 8, GREY12.max() >> 8
    said = f"the stored training images' values reach from {low} to {high} of 0 to 255"
    assert said in notes


TRANSPARENT = {
    "rgba png": (png(np.dstack([RGB, OPACITY]), 8, 6), on_white(RGB, OPACITY)),
    "grey png with opacity": (png(np.dstack([GREY, OPACITY]), 8, 4), on_white(GREY, OPACITY)),
    "rgba png of 16 bits": (
        png(np.dstack([RGB, OPACITY]) * 257, 16, 6),
        on_white(RGB, OPACITY),
    ),
    "png with a transparent colour": (
        png(RGB, 8, 2, transparent(*RGB[0, 0])),
        white_where((RGB[0, 0] == RGB).all(axis=2), RGB),
    ),
    "png with a transparent grey": (
        png(GREY, 8, 0, transparent(GREY[0, 0])),
        white_where(GREY[0, 0] == GREY, GREY),
    ),
    "png of 1 bit with transparent black": (
        png(GREY >> 7, 1, 0, transparent(0)),
        np.full((HEIGHT, WIDTH), 255),
    ),
    "png of 2 bits with a transparent grey": (
        png(GREY2, 2, 0, transparent(1)),
        white_where(GREY2 == 1, GREY2 * 85),
    ),
    "png of 4 bits with a transparent grey": (
        png(GREY4, 4, 0, transparent(5)),
        white_where(GREY4 == 5, GREY4 * 17),
    ),
    "png of 16 bits with a transparent grey": (
        png(GREY16, 16, 0, transparent(GREY16[0, 0])),
        white_where(GREY16[0, 0] == GREY16, GREY16 >> 8),
    ),
    "palette png with transparent colours": (
        png(
            GREY2, 2, 3, (b"PLTE", PALETTE.astype(np.uint8).tobytes()), (b"tRNS", b"\xff\0\x80\xff")
        ),
        on_white(PALETTE[GREY2], np.array([255, 0, 128, 255])[GREY2]),
    ),
    "rgba tiff": (by_pillow(np.dstack([RGB, OPACITY]), "TIFF"), on_white(RGB, OPACITY)),
    "rgba webp": (
        by_pillow(np.dstack([RGB, OPACITY]), "WEBP", lossless=True, exact=True),
        on_white(RGB, OPACITY),
    ),
    "gif with a transparent colour": (
        by_pillow(GREY2 * 85, "GIF", transparency=0),
        white_where(GREY2 == 0, GREY2 * 85),
    ),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparent_pixels_are_laid_on_white_and_counted(tmp_path, kind):
    content, pixels = TRANSPARENT[kind]
    other = by_pillow(pixels * 0 + 7, "PNG")  # else a picture may be all white
    (image, _), notes = stored(tmp_path, content, other)
    if image.ndim > pixels.ndim:  # Pillow takes some grey images for colour ones
        pixels = np.dstack([pixels] * 3)
    assert np.abs(image - pixels).max() <= 1  # of 255, from rounding
    assert "2 of 4 images with transparency, laid on white" in notes


def test_an_opacity_that_hides_nothing_changes_nothing(tmp_path):
    (image,), _ = stored(tmp_path, png(np.dstack([RGB, 0 * OPACITY + 255]), 8, 6))
    assert np.array_equal(image, RGB)


UPRIGHT = {
    2: RGB[:, ::-1],
    3: RGB[::-1, ::-1],
    4: RGB[::-1],
    5: RGB.transpose(1, 0, 2),
    6: np.rot90(RGB, -1),
    7: RGB[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(RGB),
}


def exif(turn):
    entries = Image.Exif()
    entries[0x0112] = turn
    return entries


@pytest.mark.parametrize("turn", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_photographs_are_upright_as_their_exif_says(tmp_path, kind, turn):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    content = by_pillow(RGB, kind, exif=exif(turn), **options.get(kind, {}))
    (image,), notes = stored(tmp_path, content)
    assert image.shape == UPRIGHT[turn].shape
    assert np.abs(image - UPRIGHT[turn]).max() <= (3 if kind == "JPEG" else 0)
    assert "2 of 2 images turned or mirrored as their EXIF or XMP entry says" in notes


def test_photographs_are_upright_as_their_xmp_says(tmp_path):
    xmp = b'iTXtXML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
    (image,), _ = stored(tmp_path, png(RGB, 8, 2, (xmp[:4], xmp[4:])))
    assert np.array_equal(image, UPRIGHT[6])


def test_16_bits_are_turned_too(tmp_path):
    (image,), _ = stored(tmp_path, by_pillow(GREY16, "PNG", exif=exif(6)))
    assert np.array_equal(image, np.rot90(GREY16 >> 8, -1))


@pytest.mark.parametrize("entry", [b"MM\0*", b"nonsense", b"II*\0\xff\xff\xff\xff", b""])
def test_a_broken_exif_is_passed_over_as_viewers_do(tmp_path, entry):
    (image,), _ = stored(tmp_path, png(RGB, 8, 2, (b"eXIf", entry)))
    assert np.array_equal(image, RGB)


@pytest.mark.parametrize("turn", [0, 9, 65535])
def test_an_orientation_that_there_is_not_is_passed_over(tmp_path, turn):
    (image,), notes = stored(tmp_path, by_pillow(RGB, "PNG", exif=exif(turn)))
    assert np.array_equal(image, RGB)
    assert not any("EXIF" in note for note in notes)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_stored_and_that_is_said(tmp_path, kind):
    second = Image.fromarray((255 - RGB).astype(np.uint8))
    options = {"WEBP": {"lossless": True}}.get(kind, {})
    content = by_pillow(RGB, kind, save_all=True, append_images=[second], **options)
    (image,), notes = stored(tmp_path, content)
    assert np.array_equal(image, RGB)
    assert "2 of 2 images with several frames or pages, of which the first is kept" in notes


def test_a_preview_behind_a_cameras_photograph_is_no_second_page(tmp_path):
    second = Image.fromarray(RGB.astype(np.uint8)).resize((2, 2))
    content = by_pillow(RGB, "MPO", save_all=True, append_images=[second])
    assert not any("frames" in note for note in stored(tmp_path, content)[1])


# Grey or colour


@pytest.mark.parametrize("first", ["grey", "colour"])
def test_one_colour_image_makes_a_data_set_a_colour_one(tmp_path, first):
    contents = [by_pillow(GREY, "PNG"), by_pillow(RGB, "PNG")]
    pixels = [np.dstack([GREY] * 3), RGB]
    order = slice(None) if first == "grey" else slice(None, None, -1)
    images, notes = stored(tmp_path, *contents[order])
    assert all(map(np.array_equal, images, pixels[order]))
    assert "2 of 4 images are grey among colour ones, and stored as RGB" in notes


def test_grey_images_of_all_kinds_keep_one_channel(tmp_path):
    contents = [png(GREY, 8, 0), png(GREY16, 16, 0), png(GREY >> 7, 1, 0)]
    contents.append(png(np.dstack([GREY, OPACITY]), 8, 4))
    contents.append(png(np.dstack([GREY, OPACITY]) * 257, 16, 4))
    assert {image.ndim for image in stored(tmp_path, *contents)[0]} == {2}


def test_a_colour_image_among_the_test_images_counts_too(tmp_path):
    for place, pixels in (("train/a/0.png", GREY), ("test/a/0.png", RGB)):
        (tmp_path / "kinds" / place).parent.mkdir(parents=True)
        (tmp_path / "kinds" / place).write_bytes(by_pillow(pixels, "PNG"))
    prepare("folder", tmp_path / "out", root=tmp_path / "kinds")
    images = load(tmp_path / "out").test_images
    assert np.array_equal(images[0].permute(1, 2, 0).numpy(), RGB)


# What is refused

FLOATS = GREY16.astype("<f4").tobytes()


def lab():
    from PIL import ImageCms

    change = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    buffer = io.BytesIO()
    ImageCms.applyTransform(Image.fromarray(RGB.astype(np.uint8)), change).save(buffer, "TIFF")
    return buffer.getvalue()


REFUSED = {
    "tiff of floats": (lambda: tiff(FLOATS, 32, more=[(339, [3])]), "floating-point numbers"),
    "tiff of 32 bits": (lambda: tiff(FLOATS, 32, more=[(339, [1])]), "integers of 32 bits"),
    "tiff of signed integers": (
        lambda: tiff(little(GREY16), 16, more=[(339, [2])]),
        "or with a sign",
    ),
    "tiff in lab": (lab, "LAB values"),
    "pfm": (lambda: b"Pf\n8 4\n-1.0\n" + FLOATS, "floating-point numbers"),
    "tiff of four bands": (
        lambda: tiff(np.dstack([RGB, GREY]).astype(np.uint8).tobytes(), 8, 4, more=[(338, [0])]),
        "4 channels",
    ),
    "tiff of five bands": (
        lambda: tiff(
            np.dstack([RGB, GREY, GREY]).astype(np.uint8).tobytes(), 8, 5, more=[(338, [0, 0])]
        ),
        "5 channels",
    ),
    "heic": (lambda: struct.pack(">I", 24) + b"ftypheic" + bytes(200), "cannot be decoded"),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot be decoded"),
    "nothing": (lambda: b"", "cannot be decoded"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_values_from_black_to_white_is_refused(tmp_path, kind):
    content, words = REFUSED[kind]
    with refused("kinds/train/a/0.png", words):
        stored(tmp_path, content(), by_pillow(RGB, "PNG"))
    assert not (tmp_path / "out").exists()  # before a single image is decoded


def test_an_image_that_would_become_endless_is_refused(tmp_path):
    line = Image.new("RGB", (1, 4_000_000))
    for place in ("train", "test"):
        (tmp_path / "kinds" / place / "a").mkdir(parents=True)
        line.save(tmp_path / "kinds" / place / "a/0.png")
    with refused("0.png", "scaled to 224 x 896000000 pixels it would be too large"):
        prepare("folder", tmp_path / "out", root=tmp_path / "kinds", size=224)


def test_images_of_different_sizes_once_upright_are_refused_before_one_is_decoded(tmp_path):
    contents = [by_pillow(RGB, "PNG"), by_pillow(RGB, "PNG", exif=exif(6))]
    with refused("1.png", "4 x 8 pixels", "the first image 8 x 4", "2 of 4 differ"):
        stored(tmp_path, *contents)
    assert not (tmp_path / "out").exists()
