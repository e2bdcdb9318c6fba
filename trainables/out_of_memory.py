"""Whether an error says that a device's or a process's memory did not suffice, whichever library says it.

What to do then (fewer at once, another try) is for whoever caught it. To free anything, leave the
`except` block first: until then the traceback holds every frame of the failed work, with its tensors."""

from __future__ import annotations

import gc

import torch

_TEXTS = (
    "out of memory",  # CUDA's own, where it does not come as torch.OutOfMemoryError
    "DefaultCPUAllocator",  # a bare RuntimeError of torch on a CPU
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    # cuDNN finds no algorithm whose workspace fits.
    "unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm to run convolution",
)


def is_out_of_memory(error: BaseException) -> bool:
    """True for torch's, Python's, cuBLAS's and cuDNN's ways of saying so."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(known in text for known in _TEXTS)


def free_memory() -> None:
    """Give back what no tensor uses any more. Call it outside of `except`."""
    gc.collect()  # frames of the failed work may hold each other in circles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
