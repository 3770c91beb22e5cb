"""Files of boxes that were made elsewhere in, rows of one kind out: one module per format."""
