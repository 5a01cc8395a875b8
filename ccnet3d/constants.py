"""Constants that several packages use."""

from __future__ import annotations

__all__ = ["IGNORE_INDEX", "IMAGE_SUFFIXES", "VIDEO_SUFFIXES"]

IGNORE_INDEX = 255
"""Label of pixels that are neither trained on nor scored: void, and every pixel of a padded frame."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
"""Usual file extensions of images that are read as frames; of others, Pillow decides."""

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg", ".flv", ".wmv")
"""File extensions of videos that are not opened to see what they are; of others, FFmpeg decides."""
