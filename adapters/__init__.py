"""Files that a site copies onto its own machines, each standing alone; docs/how-to/sites.md says how."""
