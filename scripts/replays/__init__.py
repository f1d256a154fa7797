"""The working tree against an earlier commit, bit by bit."""
