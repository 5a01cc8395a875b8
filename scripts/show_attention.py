#!/usr/bin/env python3
"""Draw what a pixel attends to: the same as the installed command ``ccnet3d-attention``."""

from ccnet3d.cli.attention import main

raise SystemExit(main())
