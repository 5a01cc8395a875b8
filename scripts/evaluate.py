#!/usr/bin/env python3
"""Evaluate a model or masks: the same as the installed command ``ccnet3d-evaluate``."""

from ccnet3d.cli.evaluate import main

raise SystemExit(main())
