"""The reader based on TorchCodec, which decodes with the FFmpeg libraries of the machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from ccnet3d.video.checked_reader import CheckedReader
from ccnet3d.video.container import ffmpeg_url
from ccnet3d.video.packet_index import PacketIndex
from ccnet3d.video.pyav_reader import AvReader
from ccnet3d.video.types import VideoError, ffmpeg_reason

__all__ = ["TorchCodecReader"]

_NOT_LOADED = (
    "TorchCodec is installed but its libraries cannot be loaded: it needs the shared libraries of FFmpeg 4 to 9 "
    "(apt-get install ffmpeg, brew install ffmpeg, or conda install ffmpeg) and the build for this PyTorch "
    "(pip install torchcodec, for PyTorch without CUDA with --index-url https://download.pytorch.org/whl/cpu); "
    "or use --decoder av"
)


class TorchCodecReader(CheckedReader):
    """A video file whose frames TorchCodec finds by their times, each of which is compared with the file's packets.

    Raises:
        VideoError: TorchCodec is not installed or cannot be loaded, or does not read the file exactly.
    """

    decoder = "torchcodec"

    def __init__(self, path: Path, stream: int | None = None) -> None:
        _import_decoder()
        super().__init__(path, stream)

    def _index(self, claimed: AvReader) -> PacketIndex:
        index = super()._index(claimed)
        if len(set(index.pts)) != index.packets:
            raise VideoError(
                f"not every frame of {self._path} has a time of its own, by which torchcodec finds it; use --decoder av"
            )
        return index

    def _open(self) -> Any:
        try:
            return _import_decoder()(
                ffmpeg_url(self._path),
                stream_index=self._stream_index,
                dimension_order="NHWC",
                num_ffmpeg_threads=0,
                device="cpu",
            )
        except RuntimeError as error:
            if "libtorchcodec" in str(error):
                raise VideoError(_NOT_LOADED) from error
            raise

    def _decode(self, index: int) -> tuple[float | None, np.ndarray]:
        frame = self._reader.get_frame_at(index)
        if round(frame.pts_seconds / self._packets.seconds_per_tick) != self._packets.pts[index]:
            raise VideoError(
                f"torchcodec returns another frame instead of frame {index} of {self._path}: the file is damaged, or "
                "torchcodec cannot seek in it; use --decoder av"
            )
        return float(frame.pts_seconds), frame.data.numpy()

    def _reason(self, error: BaseException) -> str:
        """Return TorchCodec's message without its place in the source."""
        return re.sub(r"^.*?\.(?:cpp|h):[0-9]+,? *", "", ffmpeg_reason(error))


def _import_decoder() -> Any:
    """Return TorchCodec's class of decoders."""
    try:
        from torchcodec.decoders import VideoDecoder
    except ImportError as error:
        raise VideoError(
            "the decoder torchcodec is not installed; run: pip install torchcodec, or use --decoder av"
        ) from error
    except (OSError, RuntimeError) as error:  # of releases that load FFmpeg when they are imported
        raise VideoError(_NOT_LOADED) from error
    return VideoDecoder
