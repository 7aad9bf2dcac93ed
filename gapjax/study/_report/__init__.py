"""The report: tables, sentences, figures, one page."""
