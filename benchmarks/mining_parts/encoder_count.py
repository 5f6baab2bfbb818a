"""Counts, inside vLLM's worker, how many pictures the vision tower encodes (``worker_extension_cls``)."""

from typing import Any


class EncoderCount:
    """Mixed into vLLM's worker; its methods are called through ``collective_rpc``."""

    model_runner: Any

    def watch_encoder(self) -> None:
        """Count from now on, by the grids that each call of the vision tower is given: one a picture."""
        self.pictures_encoded = 0
        tower = self.model_runner.get_model().visual
        forward = tower.forward

        def counted(*args: Any, **kwargs: Any) -> Any:
            grids = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
            self.pictures_encoded += len(grids)
            return forward(*args, **kwargs)

        tower.forward = counted

    def encoded(self) -> int:
        """Pictures since ``watch_encoder``."""
        return self.pictures_encoded
