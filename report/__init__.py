"""The technical report: figures, LaTeX source and PDF, all derived from one results record."""
