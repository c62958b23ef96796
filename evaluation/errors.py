"""The error of evaluations."""


class EvaluationError(RuntimeError):
    """An evaluation that cannot be made, or whose outcome cannot be trusted."""
