"""Self-contained pages: of a run, of an audit."""
