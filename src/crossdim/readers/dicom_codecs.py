"""Decompression of DICOM pixels by imagecodecs and Pillow, as a plugin of pydicom.

Both are part of the plain installation and cover every compression of still pictures in the standard, 12 bit JPEG and
lossless JPEG among them. GDCM is never asked: it ends the process on some damaged files instead of raising an error.
The size inside the compressed data is compared with the header's before anything is unpacked.
"""

import struct

import imagecodecs
from pydicom import uid
from pydicom.pixels.common import PhotometricInterpretation
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder
from pydicom.uid import UID

_NAME = "crossdim"
_JPEG_2000 = (uid.JPEG2000, uid.JPEG2000Lossless, uid.HTJ2K, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL)
_JPEG_LS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
_JPEG = (uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
_J2K_START = b"\xff\x4f\xff\x51"
_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
"""Start of frame: of JPEG but for the three that mean other things, and of JPEG-LS."""

DECODER_DEPENDENCIES = dict.fromkeys((*_JPEG, *_JPEG_LS, *_JPEG_2000), ("imagecodecs",))
"""What pydicom asks a plugin for."""


def is_available(syntax: str) -> bool:
    """Tell pydicom whether a transfer syntax is covered.

    Args:
        syntax: Its UID.
    """
    return syntax in DECODER_DEPENDENCIES


def plugin_for(syntax: UID, bits_stored: int) -> str:
    """Return the name of the pydicom plugin that decompresses a file; empty for files that need none.

    Args:
        syntax: Transfer syntax.
        bits_stored: Bits of a value that mean something.

    Raises:
        NotImplementedError: If no plugin covers it, such as for films.
    """
    decoder = get_decoder(syntax)
    if not syntax.is_encapsulated:
        return ""
    if syntax == uid.RLELossless:
        return "pydicom"
    if syntax == uid.JPEGBaseline8Bit or (syntax == uid.JPEGExtended12Bit and bits_stored == 8):
        return "pillow"
    if _NAME not in decoder.available_plugins:
        decoder.add_plugin(_NAME, (__name__, "decode_frame"))
    return _NAME


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """Decompress one frame for pydicom.

    Args:
        source: The compressed frame.
        runner: What is known about it, and takes what is found out.

    Raises:
        ValueError: If its size is not the header's.
        RuntimeError: If it is damaged (errors of imagecodecs are such errors).
    """
    height, width = encoded_size(source)
    if (height, width) != (runner.rows, runner.columns):
        raise ValueError(
            f"the compressed picture is {height} x {width}, the header says {runner.rows} x {runner.columns}"
        )
    syntax = runner.transfer_syntax
    if syntax in _JPEG_2000:
        values = imagecodecs.jpeg2k_decode(source)
    elif syntax in _JPEG_LS:
        values = imagecodecs.jpegls_decode(source)
    else:
        values = imagecodecs.jpeg8_decode(source)
    if runner.photometric_interpretation in (PhotometricInterpretation.YBR_ICT, PhotometricInterpretation.YBR_RCT):
        runner.set_option("photometric_interpretation", PhotometricInterpretation.RGB)
    runner.set_option("bits_allocated", 8 * values.dtype.itemsize)
    if runner.samples_per_pixel > 1:
        runner.set_option("planar_configuration", 0)
    return values.tobytes()


def encoded_size(source: bytes) -> tuple[int, int]:
    """Return (height, width) by the headers of JPEG, JPEG-LS or JPEG 2000 data.

    Args:
        source: The compressed picture (ISO/IEC 10918-1 B.2.2, 14495-1 C.2.2, 15444-1 A.5.1).

    Raises:
        ValueError: If they are not there.
    """
    place = source[:4096].find(_J2K_START)
    if place >= 0:
        right, bottom, left, top = struct.unpack_from(">4L", source, place + 8)
        return bottom - top, right - left
    place = 2
    while place + 9 <= len(source) and source[place] == 0xFF:
        marker = source[place + 1]
        if marker in _FRAME_MARKERS:
            height, width = struct.unpack_from(">2H", source, place + 5)
            return height, width
        place += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", source, place + 2)[0]
    raise ValueError("the compressed picture has no header")
