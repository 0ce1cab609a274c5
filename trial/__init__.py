"""A trial: what Gridcast would have saved on a site's own log, claimed and then checked."""
