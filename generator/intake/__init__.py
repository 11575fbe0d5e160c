"""What other programs wrote comes in; papers of notes/library.bib and notes go out, with a report of what became of each."""
