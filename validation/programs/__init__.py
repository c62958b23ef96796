"""Small NKI programs behind published measurements, written from their shapes."""
