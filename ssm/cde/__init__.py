"""Solvers of the linear CDE dZ = Σ_i A_i Z dω^i + B dξ, driven by gates linear between samples."""

from ssm.cde.base import AbstractSolver
from ssm.cde.schemes import Euler, ExactFlow
from ssm.cde.tsit5 import Tsit5

__all__ = ["AbstractSolver", "Euler", "ExactFlow", "Tsit5"]
