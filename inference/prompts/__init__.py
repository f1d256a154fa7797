"""Lists of prompts, from files of many kinds."""
