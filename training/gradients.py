"""Stops a run whose gradients are not finite before their effect is saved."""
from collections.abc import Iterable

import torch
from torch import nn

from utils.errors import InputError

NAMED = 8  # parameters that the error lists


class GradientGuard:
    """Finds the first step whose gradients AdamW cannot use.

    A gradient is refused where its squared norm is NaN or infinite in float32. This includes finite gradients whose
    squares overflow: they turn AdamW's second moments into infinity, after which a parameter never moves again.

    Args:
        named: parameters by name, as ``Module.named_parameters`` gives them; those that do not train are skipped.
        device: where the parameters are.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], device: torch.device) -> None:
        self.watched = {name: parameter for name, parameter in named if parameter.requires_grad}
        self.bad = torch.zeros(len(self.watched), dtype=torch.bool, device=device)  # in the first such step
        self.step = torch.full((), -1, device=device)                              # that step, or -1

    def look(self, step: int) -> None:
        """Look at the gradients of a step. The result stays on the device, so no step waits for it."""
        nothing = self.step.new_zeros((), dtype=torch.float32)
        gradients = [nothing if parameter.grad is None else parameter.grad for parameter in self.watched.values()]
        bad = ~torch.stack([norm.float() for norm in torch._foreach_norm(gradients)]).square().isfinite()
        clean = self.step < 0
        self.bad = torch.where(clean, bad, self.bad)
        self.step = torch.where(clean & bad.any(), step, self.step)

    def check(self) -> None:
        """Raise ``InputError`` with the names of the parameters where a gradient was not finite."""
        step = int(self.step)
        if step < 0:
            return
        names = [name for name, bad in zip(self.watched, self.bad.tolist(), strict=True) if bad]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise InputError(f"step {step}: the gradient is not finite, or overflows when squared, in "
                         f"{', '.join(names[:NAMED])}{more}; nothing was saved since. Try a lower --lr, "
                         "--mixed_precision no, or check the data with prepare/check_data.py")
