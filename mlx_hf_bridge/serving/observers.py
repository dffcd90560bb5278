"""What is notified of the work of an engine; metrics.py has one for Prometheus."""


class Observer:
    """Ignores everything; its subclasses count."""

    def turn(self, texts: int, tokens: int, seconds: float) -> None:
        """Take note of a turn.

        Args:
            texts: How many texts were computed together.
            tokens: How many tokens they have.
            seconds: How long it took.
        """
