"""3D criss-cross attention: the operator, its reference and its modules."""

from __future__ import annotations

from ccnet3d.attention.backends.reference import criss_cross_attention_reference
from ccnet3d.attention.functional import AttentionBackend, criss_cross_attention, criss_cross_attention_backends
from ccnet3d.attention.influence import attention_influence, queries_and_keys
from ccnet3d.attention.modules import CrissCrossAttention, RecurrentCrissCrossAttention

__all__ = [
    "AttentionBackend",
    "CrissCrossAttention",
    "RecurrentCrissCrossAttention",
    "attention_influence",
    "criss_cross_attention",
    "criss_cross_attention_backends",
    "criss_cross_attention_reference",
    "queries_and_keys",
]
