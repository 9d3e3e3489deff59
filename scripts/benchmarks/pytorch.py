"""Figure 2's models in PyTorch: its own layers, with the parameters of ours; and a training step.

Imported only where PyTorch is installed, and for Mamba mambapy.
"""

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(os.cpu_count() or 1)

Batch = tuple[np.ndarray, np.ndarray]
"""Tokens and targets, (examples, length) each."""


class S6(nn.Module):
    """Mamba's core around mambapy's parallel scan."""

    def __init__(self, d_model: int, dt_rank: int, d_state: int):
        super().__init__()
        self.sizes = [dt_rank, d_state, d_state]
        self.x_proj = nn.Linear(d_model, sum(self.sizes), bias=False)
        self.dt_proj = nn.Linear(dt_rank, d_model)
        self.a_log = nn.Parameter(torch.zeros(d_model, d_state))
        self.d = nn.Parameter(torch.ones(d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, length, d_model) to the same."""
        from mambapy.pscan import pscan

        dt, b, c = torch.split(self.x_proj(x), self.sizes, dim=-1)
        delta = F.softplus(self.dt_proj(dt))
        a_bar = torch.exp(delta[..., None] * -torch.exp(self.a_log))
        drive = (delta * x)[..., None] * b[:, :, None, :]
        return (pscan(a_bar, drive) @ c[..., None])[..., 0] + self.d * x


class Block(nn.Module):
    """The block of ours around a layer of PyTorch's."""

    def __init__(self, mixer: nn.Module, d_model: int, dropout: float):
        super().__init__()
        self.mixer = mixer
        self.mix = nn.Linear(d_model, 2 * d_model)
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, length, d_model) to the same."""
        if isinstance(self.mixer, nn.TransformerEncoderLayer):
            mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
            y = self.mixer(x, src_mask=mask, is_causal=True)
        else:
            y = self.mixer(x)
        y = y[0] if isinstance(y, tuple) else y
        return self.norm(x + self.dropout(F.glu(self.mix(self.dropout(y)))))


class Model(nn.Module):
    """Tokens to logits at every position."""

    def __init__(self, blocks: list[Block], vocabulary: int, d_model: int, positions: bool):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, d_model)
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(d_model, vocabulary)
        self.positions = positions

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(batch, length) to (batch, length, vocabulary)."""
        x = self.embedding(tokens)
        if self.positions:
            x = self.blocks[0].dropout(x + sinusoidal_positions(*x.shape[1:]).to(x.device))
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    def loss(self, batches: list[Batch]) -> torch.Tensor:
        """The sum of the batches' mean cross-entropies."""
        device = self.head.weight.device
        losses = []
        for tokens, targets in batches:
            logits = self(torch.as_tensor(tokens, device=device)).flatten(0, 1)
            losses.append(F.cross_entropy(logits, torch.as_tensor(targets.ravel(), device=device)))
        return torch.stack(losses).sum()


def sinusoidal_positions(length: int, d_model: int) -> torch.Tensor:
    """Those of Vaswani et al., 2017; (length, d_model)."""
    frequency = torch.exp(torch.arange(0.0, d_model, 2.0) * (-math.log(10000.0) / d_model))
    angle = torch.arange(float(length))[:, None] * frequency
    return torch.stack([torch.sin(angle), torch.cos(angle)], dim=-1).reshape(length, d_model)


def model_like(ours: Any, device: str) -> Model:
    """A model of PyTorch's layers with the parameters of ours, in training mode."""
    vocabulary, d_model = ours.encoder.weight.shape
    blocks = []
    for block in ours.blocks:
        theirs = Block(_mixer_like(block.mixer), d_model, block.dropout.p)
        _copy_linear(block.mix, theirs.mix)
        _copy_linear(block.norm, theirs.norm)
        blocks.append(theirs)
    model = Model(blocks, vocabulary, d_model, ours.positions)
    _copy(ours.encoder.weight, model.embedding.weight)
    _copy_linear(ours.readout, model.head)
    return model.to(device)


def _mixer_like(ours: Any) -> nn.Module:
    kind = type(ours).__name__
    if kind == "RNN":
        width = ours.state_bias.shape[0]
        rnn = nn.RNN(width, width, batch_first=True)
        _copy(ours.input_weight, rnn.weight_ih_l0)
        _copy(ours.state_weight, rnn.weight_hh_l0)
        _copy(ours.input_bias, rnn.bias_ih_l0)
        _copy(ours.state_bias, rnn.bias_hh_l0)
        return rnn
    if kind == "Mamba":
        core = ours.core
        d_model, d_state = core.a_log.shape
        s6 = S6(d_model, core.dt_proj.weight.shape[1], d_state)
        _copy(core.x_proj.weight, s6.x_proj.weight)
        _copy_linear(core.dt_proj, s6.dt_proj)
        _copy(core.a_log, s6.a_log)
        _copy(core.d, s6.d)
        return s6
    assert kind == "TransformerLayer", kind
    attention = ours.attention
    d_feedforward, d_model = ours.expand.weight.shape
    layer = nn.TransformerEncoderLayer(
        d_model, attention.num_heads, d_feedforward, ours.dropout.p, batch_first=True
    )
    three = [attention.query_proj, attention.key_proj, attention.value_proj]
    _copy(np.concatenate([p.weight for p in three]), layer.self_attn.in_proj_weight)
    _copy(np.concatenate([p.bias for p in three]), layer.self_attn.in_proj_bias)
    _copy_linear(attention.output_proj, layer.self_attn.out_proj)
    _copy_linear(ours.attention_norm, layer.norm1)
    _copy_linear(ours.expand, layer.linear1)
    _copy_linear(ours.contract, layer.linear2)
    _copy_linear(ours.feedforward_norm, layer.norm2)
    return layer


def _copy(source: Any, target: torch.Tensor) -> None:
    array = np.array(source)
    assert array.shape == tuple(target.shape), (array.shape, target.shape)
    with torch.no_grad():
        target.copy_(torch.from_numpy(array))


def _copy_linear(source: Any, target: Any) -> None:
    _copy(source.weight, target.weight)
    _copy(source.bias, target.bias)


def value_and_gradient(model: Model, batches: list[Batch]) -> list[np.ndarray]:
    """Without dropout: the logits of the first batch, and the loss's gradient with respect to the
    embedding."""
    model.eval()
    (gradient,) = torch.autograd.grad(model.loss(batches), [model.embedding.weight])
    logits = model(torch.as_tensor(batches[0][0], device=gradient.device))
    model.train()
    return [logits.detach().cpu().numpy(), gradient.cpu().numpy()]


def training_step(
    model: Model, batches: list[Batch], learning_rate: float, weight_decay: float
) -> Callable[[], float]:
    """One step of AdamW, the fused one, on the sum of the batches' losses; gives the loss."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True
    )

    def run() -> float:
        optimizer.zero_grad()
        loss = model.loss(batches)
        loss.backward()
        optimizer.step()
        return loss.item()

    return run
