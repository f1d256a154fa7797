"""How the tiny base pipeline of assets/tiny-sd was made."""
