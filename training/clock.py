"""Where the time of a training step goes."""
import time

import torch

PARTS = ("data", "forward", "backward", "optimizer")


class StepClock:
    """Milliseconds of each part of a step, means since they were last asked for.

    On CUDA events are recorded and read when they are asked for, so that no step waits for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.cuda = device, device.type == "cuda"
        self.laps: list[tuple[str, float | torch.cuda.Event]] = []
        self.steps = 0

    def start(self) -> None:
        """Begin to measure: what was before, such as a validation, belongs to no step."""
        self.lap("")

    def lap(self, part: str) -> None:
        """Count the time since the last call as that of ``part``."""
        if self.cuda:
            now = torch.cuda.Event(enable_timing=True)
            now.record(torch.cuda.current_stream(self.device))  # which need not be the default device
        else:
            now = time.perf_counter()
        self.laps.append((part, now))

    def step(self) -> None:
        """A step is over."""
        self.steps += 1

    def flush(self) -> dict[str, float]:
        """Milliseconds a step by part, under the names of ``PARTS``; nothing where there was no step."""
        if not self.steps:
            return {}
        if self.cuda:
            self.laps[-1][1].synchronize()
        sums = dict.fromkeys(PARTS, 0.0)
        for (_, before), (part, after) in zip(self.laps, self.laps[1:], strict=False):
            if part:
                sums[part] += before.elapsed_time(after) if self.cuda else 1000 * (after - before)
        means = {part: value / self.steps for part, value in sums.items()}
        self.laps, self.steps = self.laps[-1:], 0
        return means
