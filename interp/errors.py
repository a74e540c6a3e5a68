"""The one error of the toolkit: what was asked, what exists, what to do.

A failure that only says "invalid argument" costs its reader a search through the source. Every
check of the toolkit therefore raises `InterpError` with three sentences, and nothing else.
"""


class InterpError(ValueError):
    """What was asked, what exists and what to do about it, as one message.

    It is a `ValueError`, so that code which does not know the toolkit can still catch it.

    Example:
        >>> raise InterpError(
        ...     "layers='up9' selects none of the 16 cross-attention layers.",
        ...     "They are called down.0.0, ..., up.3.2.",
        ...     "Select by block ('up'), name ('up.1'), regular expression or integers.",
        ... )
        Traceback (most recent call last):
        interp.errors.InterpError: layers='up9' selects none of the 16 cross-attention layers. ...
    """

    def __init__(self, asked: str, exists: str, todo: str) -> None:
        self.asked, self.exists, self.todo = asked, exists, todo
        super().__init__(" ".join((asked, exists, todo)))

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        # The default would rebuild the error from its one message, and a worker process would then
        # hide it behind a TypeError.
        return type(self), (self.asked, self.exists, self.todo)
