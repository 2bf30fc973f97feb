"""Pictures as small as they may be: sources, criteria, the search over encoders, whole folders."""
