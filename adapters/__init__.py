"""Files that a site copies onto its own machines, each independent of the others; docs/how-to."""
