"""A training that learns nothing is told so, with what to try."""

from collections.abc import Iterator, Mapping

# Steps after which a loss should have left the value that it has at chance.
PATIENCE = 200
# How near to that value it has not left it, as a share of it.
NEAR = 0.01


class Stalls:
    """Watches the logged losses of a run, and tells of each that stays at chance, once.

    A loss stalls if the mean of its values over the last `PATIENCE` steps is within 1 % of its
    value at chance (`ReidModel.chance`): cross-entropy at the logarithm of the number of persons,
    or triplets at their margin, where all distances are about equal.
    """

    def __init__(self, chance: Mapping[str, float], first: int = 0) -> None:
        """Watches from step `first` on the losses that `chance` names."""
        self._chance, self._first = dict(chance), first
        self._recent: list[tuple[int, Mapping[str, float]]] = []

    def look(self, step: int, values: Mapping[str, float]) -> Iterator[str]:
        """Takes the values of a step, and yields a line for each loss that is found to stall."""
        self._recent.append((step, values))
        self._recent = [each for each in self._recent if each[0] > step - PATIENCE]
        if step - self._first < PATIENCE:
            return
        for name in sorted(self._chance.keys() & values.keys()):
            # A row of scores has no losses.
            losses = [of_step[name] for _, of_step in self._recent if name in of_step]
            mean, chance = sum(losses) / len(losses), self._chance[name]
            if abs(mean - chance) < NEAR * chance:
                del self._chance[name]
                yield (
                    f"step {step}: {name} has been at {mean:.4g} for {PATIENCE} steps, and a"
                    f" network that tells nobody apart has {chance:.4g}. Try weights to start from"
                    " (config.model.pretrained), a warm-up (config.optim.warmup), or another rate"
                    " (config.optim.lr)"
                )
