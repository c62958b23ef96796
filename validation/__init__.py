"""The latency model against published measurements: programs, points, comparison."""
