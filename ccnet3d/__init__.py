"""ccnet3d: video semantic segmentation with recurrent 3D criss-cross attention."""

__version__ = "0.1.0"
