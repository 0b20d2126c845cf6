"""Downloads: work that outlasts every proxy. What is here so far: where finished files are kept."""
