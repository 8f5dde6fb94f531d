"""Tells whether an optimizer's step is half done: it has begun to change weights, but has not ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any


class Stepping:
    """Watches optimizers through torch's own hooks.

    `step(closure)` computes the loss and the gradients in the closure, with all of Lightning's hooks. No weight changes
    until the closure has returned for the first time. An optimizer that calls it again (LBFGS) has changed some.
    """

    def __init__(self) -> None:
        self.is_half_done = False
        self._depth = 0  # a subclass's `step` that calls its base's is nested
        self._handles: list[Any] = []

    def watch(self, optimizers: Iterable[Any]) -> None:
        """Watch these optimizers until `stop`."""
        self.stop()
        for optimizer in optimizers:
            if hasattr(optimizer, "register_step_pre_hook"):  # what wraps one (DeepSpeed's) has no such hook
                self._handles.append(optimizer.register_step_pre_hook(self._begin))
                self._handles.append(optimizer.register_step_post_hook(self._end))

    def begin_batch(self) -> None:
        """Forget a step that ended with an exception, if training continued."""
        self._depth, self.is_half_done = 0, False

    def stop(self) -> None:
        """Stop watching."""
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
        """Wrap a closure: during its first run the step is not half done, unless weights changed before."""
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
    """Count the in-place changes of an optimizer's weights, by torch's version counters."""
    return sum(weight._version for group in optimizer.param_groups for weight in group["params"])  # noqa: SLF001
