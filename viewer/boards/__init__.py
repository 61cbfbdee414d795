"""Board positions as plain data that the page renders: cells, pieces and legal moves."""
