"""Whether weights are half new: an optimizer's step has begun to change them, and has not ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any


class Stepping:
    """Watches optimizers by torch's own hooks.

    `step(closure)` computes the loss and the gradients in the closure, with all of Lightning's hooks: until that has
    returned for the first time, no weight is changed. An optimizer that calls it again (LBFGS) has changed some.
    """

    def __init__(self) -> None:
        self.is_half_done = False
        self._depth = 0  # the `step` of a subclass that calls its base's is in two of them at once
        self._handles: list[Any] = []

    def watch(self, optimizers: Iterable[Any]) -> None:
        """Watch these, until `stop`."""
        self.stop()
        for optimizer in optimizers:
            if hasattr(optimizer, "register_step_pre_hook"):  # what wraps one (DeepSpeed's) has no such hook
                self._handles.append(optimizer.register_step_pre_hook(self._begin))
                self._handles.append(optimizer.register_step_post_hook(self._end))

    def begin_batch(self) -> None:
        """Forget a step that an exception has ended, and the training has gone on."""
        self._depth, self.is_half_done = 0, False

    def stop(self) -> None:
        """Watch none any more."""
        self.begin_batch()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _begin(
        self, optimizer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        self._depth += 1
        if self._depth > 1:
            return args, kwargs
        self.is_half_done = True
        if callable(closure := kwargs.get("closure")):
            return args, {**kwargs, "closure": self._watched(optimizer, closure)}
        if len(args) > 1 and callable(args[1]):  # the first one is the optimizer
            return (args[0], self._watched(optimizer, args[1]), *args[2:]), kwargs
        return args, kwargs

    def _end(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.is_half_done = False

    def _watched(self, optimizer: Any, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure; while it runs for the first time the weights are whole, unless they were changed before it."""
        before = _changes(optimizer)
        is_first = True

        def watched() -> Any:
            nonlocal is_first
            if is_first:
                is_first, self.is_half_done = False, _changes(optimizer) != before
            result = closure()
            self.is_half_done = True
            return result

        return watched


def _changes(optimizer: Any) -> int:
    """How often its weights have been changed in place, as torch counts that."""
    return sum(weight._version for group in optimizer.param_groups for weight in group["params"])  # noqa: SLF001
