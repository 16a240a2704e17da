"""TRL's trainers on a machine without a GPU.

TRL 1.15 computes the log-probabilities of SFT, DPO and KTO in a Triton kernel, which runs on GPUs alone; without one,
training fails at its first step. ``enable`` puts the same computation, in plain torch, in its place.
"""

from __future__ import annotations

from typing import Any


class TorchLogProbs:
    """Stands in for ``trl.kernels.ChunkedLogProbFunction``: same arguments, same five results, whole logits at once."""

    @staticmethod
    def apply(
        hidden: Any, weight: Any, bias: Any, targets: Any, temperature: float, chunk_size: int,
        softcap: float | None = None, scale: float = 1.0, outputs: tuple[str, ...] = (),
    ) -> tuple[Any, ...]:  # fmt: skip
        """hidden: (tokens, width). weight: (vocabulary, width). targets: (tokens,). Results are (tokens,) or None."""
        import torch

        logits = torch.nn.functional.linear(hidden, weight, bias).float() * scale
        if softcap is not None:
            logits = torch.tanh(logits / softcap) * softcap
        logits = logits / temperature
        log_p = logits.log_softmax(-1)
        chosen = log_p.gather(-1, targets[:, None]).squeeze(-1)
        return (
            chosen,
            -(log_p.exp() * log_p).sum(-1) if "entropy" in outputs else None,
            (2 * log_p.detach()).logsumexp(-1) if "log_sum_sq_probs" in outputs else None,
            logits.detach().mean(-1) if "mean_logits" in outputs else None,
            logits.argmax(-1) == targets if "is_top1" in outputs else None,
        )


def enable() -> None:
    """Make TRL's trainers usable on this machine; does nothing where there is a GPU, and nothing the second time."""
    import torch
    from trl.trainer import utils

    if not torch.cuda.is_available() and hasattr(utils, "_ChunkedLogProbFunction"):
        utils._ChunkedLogProbFunction = TorchLogProbs
