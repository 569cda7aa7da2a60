"""The periodic instability of normalization with weight decay, seen from norms and losses. Pure.

Decay shrinks the norms of scale-invariant weights, and with them the effective learning rate η/‖w‖²
climbs, until a step overshoots: the loss spikes, large gradients throw the norms up again, and it
begins anew (Lobacheva et al., arXiv:2106.15739).
"""

import collections
import dataclasses
import statistics
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Event:
    """One destabilization.

    Args:
        step: integer, the step of the measurement at which the norm had jumped.
        layer: string, the path of the kernel whose norm jumped most.
        peak: float, its norm before it shrank.
        trough: float, its smallest norm since.
        norm: float, its norm after the jump.
        loss_before: float, median of the loss before the spike.
        loss_spike: float, the loss at the spike.
    """

    step: int
    layer: str
    peak: float
    trough: float
    norm: float
    loss_before: float
    loss_spike: float

    def __str__(self) -> str:
        return (
            f"Periodic instability (arXiv:2106.15739) at step {self.step}: the norm of "
            f"{self.layer} had shrunk from {self.peak:.3g} to {self.trough:.3g}, jumped to "
            f"{self.norm:.3g}, and the loss rose from {self.loss_before:.3g} to "
            f"{self.loss_spike:.3g}. Weight decay drives the effective learning rate up until "
            "training breaks; decay less, lower the learning rate, or hold the norms "
            "(keras_gamma.dynamics.project_scale_invariant)."
        )


class Detector:
    """Takes one measurement after the other, and tells when training breaks down.

    An event is all three within a few measurements: a norm that had shrunk by `shrink` since its
    last peak, and jumps by `jump`, while the loss is `spike` times its recent median.

    Args:
        shrink: float > 1: peak over trough. The default is a factor of 1.5 of the effective
            learning rate η/‖w‖².
        jump: float > 1: norm over trough, after the jump.
        spike: float > 1: loss over the median of the measurements before.
        window: integer: measurements in which jump and spike must fall.
        memory: integer: measurements before the window whose losses are compared with.

    Example:

    >>> from keras_gamma.dynamics.instability import Detector
    >>> detector = Detector()
    >>> norms = [2.0, 1.8, 1.6, 1.4, 1.3, 1.2, 1.9]
    >>> losses = [0.5, 0.4, 0.3, 0.2, 0.2, 0.9, 2.0]
    >>> events = [detector.update(i, l, {"conv/kernel": n})
    ...           for i, (l, n) in enumerate(zip(losses, norms))]
    >>> events[-1].step, events[-1].trough, events[:-1] == [None] * 6
    (6, 1.2, True)
    """

    def __init__(
        self,
        shrink: float = 1.5**0.5,
        jump: float = 1.1,
        spike: float = 3.0,
        window: int = 3,
        memory: int = 20,
    ) -> None:
        self._shrink, self._jump, self._spike = shrink, jump, spike
        self._window = window
        self._losses: collections.deque[float] = collections.deque(maxlen=memory + window)
        # Of each kernel the last norms, each with the peak up to then.
        self._norms: dict[str, collections.deque[tuple[float, float]]] = collections.defaultdict(
            lambda: collections.deque(maxlen=window)
        )
        self._peaks: dict[str, float] = {}

    def update(self, step: int, loss: float | None, norms: Mapping[str, float]) -> Event | None:
        """Takes one measurement.

        Args:
            step: integer.
            loss: float: the mean since the last measurement, or `None`.
            norms: dict from the paths of kernels to their norms.

        Returns:
            An `Event`, or `None`.
        """
        if loss is not None:
            self._losses.append(loss)
        found: Event | None = None
        for layer, norm in norms.items():
            recent = self._norms[layer]
            # The peak counts up to the trough, for it must have been there before.
            trough, peak = min(recent, default=(norm, norm))
            if norm >= self._jump * trough and peak >= self._shrink * trough:
                event = self._spiked(step, layer, peak, trough, norm)
                if event and (found is None or norm / trough > found.norm / found.trough):
                    found = event
            self._peaks[layer] = max(self._peaks.get(layer, norm), norm)
            recent.append((norm, self._peaks[layer]))
        if found:
            # It begins anew: every norm counts from where it is now.
            self._peaks = dict(norms)
            for recent in self._norms.values():
                recent.clear()
        return found

    def _spiked(
        self, step: int, layer: str, peak: float, trough: float, norm: float
    ) -> Event | None:
        losses = list(self._losses)
        before, during = losses[: -self._window], losses[-self._window :]
        if not before:
            return None
        usual = statistics.median(before)
        if not max(during) >= self._spike * usual:
            return None
        return Event(step, layer, peak, trough, norm, usual, max(during))
