"""What is known of each pair: its evidence, what held-out pairs come to, and what is ordinary."""
