"""Files that a site copies onto its own machines, each standing alone; docs/sites.md says how."""
