"""What a distance says, by a calibration: "same", "unsure" or "nobody"."""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxreid.errors import UserError

CALIBRATION = "calibration.json"
FORMAT = "jaxreid calibration 1"


class Calibration(NamedTuple):
    """Thresholds of one network, by data whose persons are known.

    Attributes:
        data: the name of that data.
        persons: how many it has.
        rate: of pairs of two persons that are "same".
        miss: of pairs of one person that are "nobody".
        same: up to this distance it is "same".
        nobody: above this one it is "nobody"; between them "unsure".
    """

    data: str
    persons: int
    rate: float
    miss: float
    same: float
    nobody: float

    def answer(self, distance: float) -> Literal["same", "unsure", "nobody"]:
        """What a distance says."""
        if distance <= self.same:
            return "same"
        return "unsure" if distance <= self.nobody else "nobody"

    def words(self, size: int) -> str:
        """What to know of the answers, over a gallery of that size."""
        wrong = self.rate * size
        return (
            f'calibrated on {self.data} ({self.persons:,} persons): "same" up to {self.same:.4g},'
            f" where {self.rate:.2%} of pairs of two persons are"
            f" ({'fewer than 1' if wrong < 1 else f'about {wrong:,.0f}'} of a gallery of {size:,}"
            f' others); "nobody" above {self.nobody:.4g}, where {self.miss:.2%} of pairs of one'
            " person are"
        )


def read_calibration(path: Path, fingerprint: str) -> Calibration:
    """What `jaxreid.calibrate` wrote.

    Args:
        path: of the file.
        fingerprint: of the network that it has to be of, see `Extractor`.

    Raises:
        UserError: it cannot be read, is damaged, or of another network.
    """
    try:
        tree: Any = json.loads(path.read_bytes())
        if tree.get("format") != FORMAT:
            raise ValueError(f"it does not say that it is a {FORMAT!r}")
        numbers = (float(tree[key]["value"]) for key in ("false_match_rate", "lost"))
        rate, miss = numbers
        found = Calibration(
            str(tree["data"]["name"]),
            int(tree["data"]["persons"]),
            *(rate, miss, float(tree["same"]), float(tree["nobody"])),
        )
        if not -float("inf") < found.same <= found.nobody < float("inf"):
            raise ValueError(f"its thresholds are {found.same} and {found.nobody}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(
            f"{path}: not a calibration, or damaged ({reason}); python -m jaxreid.calibrate"
            " makes one"
        ) from None
    if tree.get("network") != fingerprint:
        raise UserError(
            f"{path}: a calibration of another network, or of another checkpoint; python -m"
            " jaxreid.calibrate makes one of this"
        )
    return found
