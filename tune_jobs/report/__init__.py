"""What is said of results: tables, statistics, figures, and the forms in which they are written."""
