"""Which pictures a set holds, by content and by path: duplicates are reported, held-out ones kept out of training."""

from dataclasses import dataclass, field

from divek_verl.prepare.examples import Example


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Two images of one content; they may be labelled differently."""

    image: str
    truth: str
    earlier: str
    earlier_truth: str


@dataclass
class Contents:
    """Pictures met so far.

    Attributes:
        duplicates: images whose content was met before, in any file of the set.
    """

    duplicates: list[Duplicate] = field(default_factory=list)
    _met: dict[bytes, Example] = field(default_factory=dict)
    _held_out: dict[bytes, str] = field(default_factory=dict)
    _held_out_paths: set[str] = field(default_factory=set)

    @property
    def held_out(self) -> int:
        """How many images may not be trained on."""
        return len(self._held_out_paths)

    def hold_out(self, image: str, digest: bytes | None) -> None:
        """Neither this path nor, where it could be read, this content may be trained on."""
        self._held_out_paths.add(image)
        if digest is not None:
            self._held_out.setdefault(digest, image)

    def why_not_in_training(self, example: Example, digest: bytes) -> str | None:
        """In words, why an image is not to be trained on; None where it may be."""
        if example.image in self._held_out_paths:
            return "is held out too"
        twin = self._held_out.get(digest)
        return None if twin is None else f"has the same content as {twin}, which is held out"

    def add(self, example: Example, digest: bytes) -> None:
        earlier = self._met.setdefault(digest, example)
        if earlier is not example:
            self.duplicates.append(Duplicate(example.image, example.truth, earlier.image, earlier.truth))
