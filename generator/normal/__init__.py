"""Notes and library.bib as written come in; the same in the house's normal form go out, or why one was left alone."""
