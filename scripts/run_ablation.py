#!/usr/bin/env python3
"""Run an ablation: the same as the installed command ``ccnet3d-ablate``."""

from ccnet3d.cli.ablate import main

raise SystemExit(main())
