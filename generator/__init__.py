"""Paper notes whose every method runs: notes, snippets and results in; Markdown pages and assets out."""

__version__ = "0.1.0"
