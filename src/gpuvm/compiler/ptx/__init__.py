"""Reading PTX: text to a syntax tree. Knows nothing of machine code."""
