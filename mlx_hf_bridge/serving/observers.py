"""What is notified of the work of an engine; metrics.py has one for Prometheus."""


class Observer:
    """Ignores everything; its subclasses count."""

    def turn(self, model: str, texts: int, tokens: int, seconds: float) -> None:
        """Take note of a turn.

        Args:
            model: The model.
            texts: How many texts were computed together.
            tokens: How many tokens they have.
            seconds: How long it took.
        """

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Take note of an HTTP request.

        Args:
            method: Its method.
            route: The route that answered, without values in it.
            status: The status of the response.
            seconds: How long it took, from the first byte of the request.
        """
