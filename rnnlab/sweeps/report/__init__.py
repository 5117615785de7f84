"""What came of a sweep: comparisons, tables, figures, the report."""
