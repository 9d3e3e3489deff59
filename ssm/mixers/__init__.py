"""Mixers: the layers that move information along the sequence, one family a file."""

from ssm.mixers.attention import TransformerLayer
from ssm.mixers.base import AbstractMixer, AbstractRecurrentMixer
from ssm.mixers.linear_cde import LinearCDE
from ssm.mixers.mamba import S6, Mamba
from ssm.mixers.rnn import RNN
from ssm.mixers.s4 import S4
from ssm.mixers.s5 import S5

__all__ = [
    "RNN",
    "S4",
    "S5",
    "S6",
    "AbstractMixer",
    "AbstractRecurrentMixer",
    "LinearCDE",
    "Mamba",
    "TransformerLayer",
]
