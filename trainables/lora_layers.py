"""One frozen layer, linear or convolution, and the S updates that are attached to it or merged into it.

The mathematics is lora.py's; which layers of a network are meant is decided there, too."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.dropout import SlotDropout, dropout_mask, hash_of_elements


class SlotLoRALayer(nn.Module):
    """A frozen `nn.Linear` or `nn.Conv2d` and its updates a (S, d_in, r), b (S, r, d_out). Without any it is the plain layer.

    For a convolution d_in is c_in * kernel height * kernel width, in the order of its weight."""

    def __init__(self, base: nn.Linear | nn.Conv2d, index: int, *, reads_text: bool = False) -> None:
        super().__init__()
        self.base = base
        self.index = index  # distinguishes the dropout masks of the layers
        self.reads_text = reads_text
        self.a: Tensor | None = None
        self.b: Tensor | None = None
        self.dropout: SlotDropout | None = None
        self.mask: Tensor | None = None  # (S, n), when it was drawn together with the other layers'
        self.element_hash = torch.empty(0, dtype=torch.int32)  # (n,) for the n input elements of a slot
        self._hashes: dict[int, Tensor] = {}  # the same by n: one, or one for each size of images
        self.merged: Tensor | list[Tensor] | None = None  # (S, d_in, d_out); of a convolution S weights like its own
        self.last: tuple[Tensor, Tensor] | None = None  # input and output, where the input is the text, the same in each denoising step

    @property
    def shape(self) -> tuple[int, int]:  # (d_in, d_out)
        return self.base.weight[0].numel(), self.base.weight.shape[0]

    @property
    def kernel(self) -> tuple[int, int] | None:
        """Height and width of a convolution's kernel; None for a linear layer."""
        return self.base.kernel_size if isinstance(self.base, nn.Conv2d) else None

    def forward(self, x: Tensor) -> Tensor:  # x (S * batch, ..., d_in), or (S * batch, c_in, h, w)
        if self.merged is not None:
            return self._merged_text(x) if self.reads_text else self._merged(x)
        if self.a is None:
            return self.base(x)
        dropping = (None, None, None) if self.dropout is None else (self._mask(x), self.dropout, self.element_hash)
        if self.kernel is None:
            return _SlotLinear.apply(x, self.base.weight, self.base.bias, self.a, self.b, *dropping)
        y = self.base(x)
        return y.add_(_SlotConv.apply(x, self.base, self.a, self.b, y.dtype, *dropping))

    def merge(self, a: Tensor, b: Tensor) -> None:
        """Compute W + A B of every slot, for many passes."""
        merged = torch.baddbmm(self.base.weight.flatten(1).T, a, b)
        self.merged = merged if self.kernel is None else [_like(self.base.weight, w.T) for w in merged]

    def _mask(self, x: Tensor) -> Tensor | None:
        n = x.numel() // self.a.shape[0]
        if len(self.element_hash) != n or self.element_hash.device != x.device:
            if n not in self._hashes or self._hashes[n].device != x.device:
                self._hashes[n] = hash_of_elements(n, self.index, x.device)
            self.element_hash = self._hashes[n]
        return self.mask if self.mask is not None and self.mask.shape[1] == n else None

    def _merged(self, x: Tensor) -> Tensor:
        if self.kernel is not None:
            # A slot has many pictures, so that a loop over slots costs nothing.
            slots = zip(x.chunk(len(self.merged)), self.merged, strict=True)
            return torch.cat([F.conv2d(x_s, w_s, self.base.bias, self.base.stride, self.base.padding) for x_s, w_s in slots])
        by_slot = x.reshape(self.merged.shape[0], -1, x.shape[-1])
        y = torch.bmm(by_slot, self.merged) if self.base.bias is None else torch.baddbmm(self.base.bias, by_slot, self.merged)
        return y.view(*x.shape[:-1], -1)

    def _merged_text(self, x: Tensor) -> Tensor:
        if self.last is None or self.last[0] is not x:
            self.last = x, self._merged(x)
        return self.last[1]


class _SlotLinear(torch.autograd.Function):
    """W x + drop(x) A B as one node of the graph: at the batch of a training, a step's time is that of handling small operations.

    Without a mask but with dropout, the mask is computed here and again in the backward pass instead of being kept. W is frozen."""

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, mask, dropout, element_hash):  # noqa: ANN001  a (S, d_in, r), b (S, r, d_out), mask (S, n)
        y = F.linear(x, weight, bias)
        by_slot = x.reshape(a.shape[0], -1, x.shape[-1])
        dropped = by_slot if dropout is None else by_slot * _mask_of(mask, dropout, element_hash, by_slot)
        dropped = dropped.to(y.dtype)  # adapters stay in float32 whatever the base computes in
        hidden = torch.bmm(dropped, a.to(y.dtype))
        y.view(a.shape[0], -1, y.shape[-1]).baddbmm_(hidden, b.to(y.dtype))
        ctx.save_for_backward(dropped, hidden, weight, a, b, mask)
        ctx.dropout, ctx.element_hash, ctx.x_dtype = dropout, element_hash, x.dtype
        return y

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001
        dropped, hidden, weight, a, b, mask = ctx.saved_tensors
        by_slot = grad.reshape(a.shape[0], -1, grad.shape[-1])
        grad_hidden = torch.bmm(by_slot, b.to(grad.dtype).transpose(1, 2))
        grad_a = torch.bmm(dropped.transpose(1, 2), grad_hidden).to(a.dtype) if ctx.needs_input_grad[3] else None
        grad_b = torch.bmm(hidden.transpose(1, 2), by_slot).to(b.dtype) if ctx.needs_input_grad[4] else None
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.mm(grad.reshape(-1, grad.shape[-1]), weight.to(grad.dtype)).view(*dropped.shape)
            a_transposed = a.to(grad.dtype).transpose(1, 2)
            if ctx.dropout is None:
                grad_x.baddbmm_(grad_hidden, a_transposed)
            else:
                grad_x.addcmul_(torch.bmm(grad_hidden, a_transposed), _mask_of(mask, ctx.dropout, ctx.element_hash, grad_x))
            grad_x = grad_x.view(*grad.shape[:-1], -1).to(ctx.x_dtype)
        return grad_x, None, None, grad_a, grad_b, None, None, None


class _SlotConv(torch.autograd.Function):
    """drop(x) A B of a convolution as one node; W x is torch's own.

    A convolution to r channels is a product with all K taps of its kernel at once, (r K, c_in), whose maps are then moved and summed
    (`_summed`). So all slots are one batched product, and what is in between has r K channels; unfolding x would make c_in K of them."""

    @staticmethod
    def forward(ctx, x, base, a, b, dtype, mask, dropout, element_hash):  # noqa: ANN001  x (S * batch, c_in, h, w), a (S, c_in K, r)
        by_slot = x.reshape(a.shape[0], -1, x.shape[1], x.shape[2] * x.shape[3])
        dropped = by_slot if dropout is None else by_slot * _mask_of(mask, dropout, element_hash, by_slot)
        dropped = dropped.to(dtype)
        hidden = _summed(torch.matmul(_taps(a, x.shape[1], dtype), dropped).flatten(0, 1), x.shape[2:], base)  # (S * batch, r, h', w')
        hidden_by_slot = hidden.reshape(*dropped.shape[:2], a.shape[2], -1)
        y = torch.matmul(b.to(dtype).transpose(1, 2).unsqueeze(1), hidden_by_slot)
        ctx.save_for_backward(dropped, hidden_by_slot, a, b, mask)
        ctx.base, ctx.dropout, ctx.element_hash, ctx.x_shape, ctx.x_dtype = base, dropout, element_hash, x.shape, x.dtype
        return y.view(x.shape[0], -1, *hidden.shape[2:])

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001
        dropped, hidden, a, b, mask = ctx.saved_tensors
        by_slot = grad.reshape(*dropped.shape[:2], grad.shape[1], -1)
        grad_hidden = torch.matmul(b.to(grad.dtype).unsqueeze(1), by_slot)
        grad_products = _spread(grad_hidden.view(-1, a.shape[2], *grad.shape[2:]), ctx.x_shape[2:], ctx.base)
        grad_products = grad_products.view(*dropped.shape[:2], -1, dropped.shape[3])  # (S, batch, r K, h * w)
        grad_a = grad_b = grad_x = None
        if ctx.needs_input_grad[2]:
            grad_a = _untapped(torch.matmul(grad_products, dropped.transpose(2, 3)).sum(1), a)
        if ctx.needs_input_grad[3]:
            grad_b = torch.matmul(hidden, by_slot.transpose(2, 3)).sum(1).to(b.dtype)
        if ctx.needs_input_grad[0]:
            grad_x = torch.matmul(_taps(a, ctx.x_shape[1], grad.dtype).transpose(2, 3), grad_products)
            if ctx.dropout is not None:
                grad_x = grad_x * _mask_of(mask, ctx.dropout, ctx.element_hash, grad_x)
            grad_x = grad_x.view(ctx.x_shape).to(ctx.x_dtype)
        return grad_x, None, grad_a, grad_b, None, None, None, None


def _taps(a: Tensor, c_in: int, dtype: torch.dtype) -> Tensor:  # a (S, c_in K, r) -> (S, 1, r K, c_in), the last tap first
    taps = a.to(dtype).view(a.shape[0], c_in, -1, a.shape[2])
    return taps.flip(2).permute(0, 3, 2, 1).reshape(a.shape[0], 1, -1, c_in)


def _untapped(grad_taps: Tensor, a: Tensor) -> Tensor:  # (S, r K, c_in) -> like a
    grad = grad_taps.view(a.shape[0], a.shape[2], -1, grad_taps.shape[2])
    return grad.flip(2).permute(0, 3, 2, 1).reshape(a.shape).to(a.dtype)


def _summed(products: Tensor, size: tuple[int, int], base: nn.Conv2d) -> Tensor:  # (n, r K, h * w) -> (n, r, h', w')
    """Every tap's map moved to where the kernel has that tap, and their sum, at each stride-th place."""
    full, padding = _full_size(size, base)
    return F.fold(products, full, base.kernel_size, padding=padding)[..., :: base.stride[0], :: base.stride[1]]


def _spread(grad: Tensor, size: tuple[int, int], base: nn.Conv2d) -> Tensor:  # (n, r, h', w') -> (n, r K, h * w)
    """The transpose of `_summed`."""
    full, padding = _full_size(size, base)
    if grad.shape[2:] != full:
        strided, grad = grad, grad.new_zeros(*grad.shape[:2], *full)
        grad[..., :: base.stride[0], :: base.stride[1]] = strided
    return F.unfold(grad, base.kernel_size, padding=padding)


def _full_size(size: tuple[int, int], base: nn.Conv2d) -> tuple[tuple[int, int], tuple[int, int]]:
    """What comes out of the convolution without a stride, and the padding with which `fold` makes it."""
    full = tuple(s + 2 * p - k + 1 for s, p, k in zip(size, base.padding, base.kernel_size, strict=True))
    return full, tuple(k - 1 - p for p, k in zip(base.padding, base.kernel_size, strict=True))


def _like(weight: Tensor, values: Tensor) -> Tensor:
    """The values in the shape and the memory layout of the weight: on a GPU, channels last."""
    return torch.empty_like(weight).copy_(values.reshape(weight.shape))


def _mask_of(mask: Tensor | None, dropout: SlotDropout, element_hash: Tensor, like: Tensor) -> Tensor:
    return (dropout_mask(dropout, element_hash) if mask is None else mask).view_as(like).to(like.dtype)
