"""The figures of RESULTS.md, each a command."""
