#!/usr/bin/env python3
"""Train a recipe: the same as the installed command ``ccnet3d-train``."""

from ccnet3d.cli.train import main

raise SystemExit(main())
