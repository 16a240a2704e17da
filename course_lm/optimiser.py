"""What updates the weights of course-lm: AdamW alone, or Muon for the matrices inside its blocks."""

from __future__ import annotations

from typing import Any


def optimisers(model: Any, probes: Any, kind: str, lr: float) -> list[Any]:
    """AdamW for all weights; with kind ``muon`` the blocks' matrices go to torch's Muon and the rest to AdamW.

    Muon's updates are scaled to the root mean square of AdamW's, so that one learning rate serves both.
    """
    import torch

    blocks = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name and kind == "muon"]
    taken = {id(p) for p in blocks}
    rest = [p for p in model.parameters() if id(p) not in taken]
    groups = [{"params": rest}, {"params": list(probes.parameters()), "probes": True}]
    adamw = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    muon = [torch.optim.Muon(blocks, lr=lr, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")] if blocks else []
    return [adamw, *muon]
