"""Who is condemned: each rule in a file of its own."""
